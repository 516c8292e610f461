use half::{bf16, f16};

/// Numbers of one of the types that factors come in.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// f32.
    F32(&'a [f32]),
    /// f16.
    F16(&'a [f16]),
    /// bf16.
    Bf16(&'a [bf16]),
}

impl<'a> Values<'a> {
    /// Those from `start` on.
    ///
    /// # Panics
    /// There are fewer.
    pub fn after(self, start: usize) -> Values<'a> {
        match self {
            Values::F32(values) => Values::F32(&values[start..]),
            Values::F16(values) => Values::F16(&values[start..]),
            Values::Bf16(values) => Values::Bf16(&values[start..]),
        }
    }

    /// The first `count` of them.
    ///
    /// # Panics
    /// There are fewer.
    pub fn first(self, count: usize) -> Values<'a> {
        match self {
            Values::F32(values) => Values::F32(&values[..count]),
            Values::F16(values) => Values::F16(&values[..count]),
            Values::Bf16(values) => Values::Bf16(&values[..count]),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::F16(values) => values.len(),
            Values::Bf16(values) => values.len(),
        }
    }
}

/// A factor as it lies in memory: `rows` x `columns`, with any strides.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub(super) values: Values<'a>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row after row, without gaps.
    ///
    /// # Panics
    /// `values` is not `rows * columns` long.
    pub fn new(values: Values<'a>, rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "values of a {rows} x {columns} matrix");
        Matrix { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Rows that begin `row_stride` values apart.
    ///
    /// # Panics
    /// `values` ends before the last row does.
    pub fn with_stride(values: Values<'a>, rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(row_stride >= columns, "rows of {columns} values, {row_stride} apart");
        let end = rows.checked_sub(1).map_or(0, |last| last * row_stride + columns);
        assert!(values.len() >= end, "{} values for {rows} rows, {row_stride} apart", values.len());
        Matrix { values, rows, columns, row_stride, column_stride: 1 }
    }

    /// With any strides, `[row, column]`; the caller has checked that the values reach so far.
    pub(crate) fn strided(
        values: Values<'a>,
        [rows, columns]: [usize; 2],
        [row_stride, column_stride]: [usize; 2],
    ) -> Self {
        Matrix { values, rows, columns, row_stride, column_stride }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The same numbers, read the other way.
    pub fn transposed(self) -> Self {
        Matrix {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}
