use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ::parquet::basic::{ConvertedType, LogicalType, Type};
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, ByteArrayType};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::RowGroupMetaData;
use ::parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use ::parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};
use bytes::Bytes;
use rectiflow_weights::quoted;

use crate::captions::{CAPTION_BYTES_MAX, Captions};
use crate::error::{DatasetError, Reason};
use crate::findings::LeftOut;
use crate::picture::FILE_BYTES_MAX;
use crate::source::file::{self, Section};
use crate::source::{Source, texts};

/// Parquet files as hubs publish them: a row is a sample. Pictures are in a column of bytes, or of a struct
/// `{bytes, path}`; each column of strings, or of lists of strings, is a column of captions.
///
/// A column is read from page to page and not decoded further than needed: samples asked for in order cost one pass,
/// a sample asked for alone the pages' headers before it and its own page. Never is a whole row group in memory,
/// unless the file has it as one page.
pub struct Parquet {
    files: Vec<Table>,
    /// In all files.
    samples: u64,
    pub(super) left_out: Vec<LeftOut>,
    /// Columns that are being read, to go on from where they are.
    cursors: Mutex<Vec<Cursor>>,
}

struct Table {
    reader: SerializedFileReader<Reopened>,
    /// Below the root.
    name: String,
    /// The number of the first sample.
    first: u64,
    /// Rows of each row group.
    groups: Vec<u64>,
    /// None where only captions are read.
    picture: Option<usize>,
    /// The struct's `path` beside the picture.
    picture_name: Option<usize>,
    /// Columns of captions, with their names.
    texts: Vec<(usize, String)>,
}

/// A place in one column of one row group.
struct Cursor {
    place: (usize, usize, usize),
    /// The row, within the group, that comes next.
    row: u64,
    reader: ColumnReaderImpl<ByteArrayType>,
}

/// A file that is opened for each read. Parquet's own reader of a `File` duplicates its handle, and duplicates share
/// one position: threads would read at each other's.
struct Reopened {
    path: PathBuf,
    bytes: u64,
}

impl Length for Reopened {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Reopened {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(BufReader::new(file))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let section = Section { offset: start, bytes: length as u64 };
        Ok(file::read_section(&self.path, section, u64::MAX)?.into())
    }
}

/// Each holds a page. Enough for a few threads that each read three columns in order.
const CURSORS_MAX: usize = 48;

/// What a picture's column is called where several hold bytes.
const PICTURE_COLUMNS: [&str; 6] = ["image", "picture", "img", "jpg", "png", "webp"];

impl Parquet {
    /// Reads the files' footers. `files` in the order of the samples; ids name them relative to `root`.
    ///
    /// # Errors
    /// A file that is not Parquet, or whose footer contradicts itself; no column of pictures, or several.
    pub fn open(root: &Path, files: &[PathBuf], picture_column: Option<&str>) -> Result<Self, DatasetError> {
        Parquet::of_tables(files, |path| Table::open(root, path, |path, schema| picture(path, schema, picture_column)))
    }

    /// The same for captions alone: whether there are pictures does not matter.
    pub(super) fn of_texts(root: &Path, files: &[PathBuf]) -> Result<Self, DatasetError> {
        Parquet::of_tables(files, |path| Table::open(root, path, |_, _| Ok(None)))
    }

    fn of_tables(files: &[PathBuf], open: impl Fn(&Path) -> Result<Table, DatasetError>) -> Result<Self, DatasetError> {
        let (mut tables, mut samples) = (Vec::new(), 0_u64);
        for path in files {
            let table = Table { first: samples, ..open(path)? };
            samples = table.rows().and_then(|rows| samples.checked_add(rows)).ok_or_else(|| too_many_rows(path))?;
            tables.push(table);
        }
        Ok(Parquet { files: tables, samples, left_out: Vec::new(), cursors: Mutex::default() })
    }

    /// The file, the row group and the row in it.
    fn locate(&self, number: u64) -> (usize, usize, u64) {
        let file = self.files.partition_point(|table| table.first <= number) - 1;
        let table = &self.files[file];
        let mut row = number - table.first;
        for (group, rows) in table.groups.iter().enumerate() {
            if row < *rows {
                return (file, group, row);
            }
            row -= rows;
        }
        panic!("sample {number} of {}", self.samples);
    }

    /// The values of one column for one sample: none for null, several for a list.
    fn values(&self, number: u64, column: usize) -> Result<Vec<ByteArray>, Reason> {
        let (file, group, row) = self.locate(number);
        let failed = |error: ParquetError| Reason::Unreadable(error.to_string());
        let mut cursor = match self.take_cursor((file, group, column), row) {
            Some(cursor) => cursor,
            None => self.files[file].cursor((file, group, column)).map_err(failed)?,
        };
        let skipped = cursor.reader.skip_records((row - cursor.row) as usize).map_err(failed)? as u64;
        let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        let read = cursor.reader.read_records(1, Some(&mut defined), Some(&mut repeated), &mut values);
        let (records, ..) = read.map_err(failed)?;
        if skipped != row - cursor.row || records != 1 {
            return Err(Reason::Unreadable(format!("the column ends before row {row} of row group {group}")));
        }
        cursor.row = row + 1;
        self.keep_cursor(cursor);
        Ok(values)
    }

    /// The cursor that is nearest before the row.
    fn take_cursor(&self, place: (usize, usize, usize), row: u64) -> Option<Cursor> {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = cursors.iter().enumerate().filter(|(_, cursor)| cursor.place == place && cursor.row <= row);
        let (at, _) = fitting.max_by_key(|(_, cursor)| cursor.row)?;
        Some(cursors.remove(at))
    }

    fn keep_cursor(&self, cursor: Cursor) {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        if cursors.len() == CURSORS_MAX {
            cursors.remove(0);
        }
        cursors.push(cursor);
    }

    fn table(&self, number: u64) -> &Table {
        &self.files[self.locate(number).0]
    }
}

impl Table {
    /// Its first sample is 0. `picture` finds the column of pictures.
    fn open(
        root: &Path,
        path: &Path,
        picture: impl Fn(&Path, &SchemaDescriptor) -> Result<Option<usize>, DatasetError>,
    ) -> Result<Self, DatasetError> {
        let bytes = file::whole(path).map_err(|problem| DatasetError::reading(path, problem))?.bytes;
        let damaged = |error: ParquetError| DatasetError::Damaged { path: path.to_owned(), problem: error.to_string() };
        let reader = SerializedFileReader::new(Reopened { path: path.to_owned(), bytes }).map_err(damaged)?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let columns = schema.columns();
        let picture = picture(path, &schema)?;
        let picture_name = picture.and_then(|picture| {
            let beside = [top(&columns[picture]), "path"];
            columns.iter().position(|column| is_text(column) && column.path().parts() == beside)
        });
        let texts = columns.iter().enumerate().filter(|(_, column)| is_text(column) && is_plain_or_list(column));
        let texts: Vec<(usize, String)> = texts.map(|(at, column)| (at, top(column).to_owned())).collect();
        let read = texts.iter().map(|(at, _)| *at).chain(picture).chain(picture_name).collect::<Vec<_>>();
        let groups = reader.metadata().row_groups().iter().enumerate();
        let groups = groups.map(|(at, group)| {
            rows(group, &read).map_err(|problem| DatasetError::Damaged {
                path: path.to_owned(),
                problem: format!("row group {at} {problem}"),
            })
        });
        let groups = groups.collect::<Result<_, _>>()?;
        let relative = path.strip_prefix(root).ok().filter(|name| !name.as_os_str().is_empty());
        let name = relative.unwrap_or(Path::new(path.file_name().unwrap_or_default()));
        let name = name.to_string_lossy().replace('\\', "/");
        Ok(Table { name, first: 0, groups, picture, picture_name, texts, reader })
    }

    /// By its row groups, which is what can be read; `None` where they are more than can be counted.
    fn rows(&self) -> Option<u64> {
        self.groups.iter().try_fold(0_u64, |sum, rows| sum.checked_add(*rows))
    }

    fn cursor(&self, place: (usize, usize, usize)) -> Result<Cursor, ParquetError> {
        match self.reader.get_row_group(place.1)?.get_column_reader(place.2)? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(Cursor { place, row: 0, reader }),
            _ => Err(ParquetError::General("the column holds no bytes".into())),
        }
    }
}

/// How many rows a row group has, which the columns that are read must agree with: a footer may say anything.
fn rows(group: &RowGroupMetaData, read: &[usize]) -> Result<u64, String> {
    let rows = group.num_rows();
    for column in read.iter().map(|at| group.columns().get(*at)) {
        let column = column.ok_or_else(|| "lacks columns of the table".to_owned())?;
        // A null counts, and so does an empty list.
        let (values, is_list) = (column.num_values(), column.column_descr().max_rep_level() > 0);
        let agrees = values == rows || (is_list && values > rows);
        if !agrees {
            let name = quoted(&column.column_path().string());
            return Err(format!("should have {rows} rows, and its column {name} has {values} values"));
        }
    }
    u64::try_from(rows).map_err(|_| format!("should have {rows} rows"))
}

fn too_many_rows(path: &Path) -> DatasetError {
    DatasetError::Damaged { path: path.to_owned(), problem: "it has more rows than can be counted".into() }
}

/// The column of pictures: the one of that name, the only one that there is, or one that is called as such.
fn picture(path: &Path, schema: &SchemaDescriptor, wanted: Option<&str>) -> Result<Option<usize>, DatasetError> {
    let columns = schema.columns();
    let bytes_of = |name: &str| columns.iter().position(|column| is_bytes(column) && top(column) == name);
    let names = |of: fn(&ColumnDescriptor) -> bool| {
        let mut names: Vec<String> =
            columns.iter().filter(|column| of(column)).map(|column| top(column).to_owned()).collect();
        names.dedup();
        names
    };
    let with_bytes = names(is_bytes);
    let found = match (wanted, &with_bytes[..]) {
        (Some(name), _) => bytes_of(name),
        (None, []) => None,
        (None, [only]) => bytes_of(only),
        (None, _) => match PICTURE_COLUMNS.iter().find_map(|name| bytes_of(name)) {
            Some(column) => Some(column),
            None => return Err(DatasetError::PictureColumns { path: path.to_owned(), columns: with_bytes }),
        },
    };
    match found {
        Some(column) => Ok(Some(column)),
        None => Err(DatasetError::NoPictureColumn { path: path.to_owned(), columns: names(|_| true) }),
    }
}

/// The name of the column in the table, of which `column` is a leaf.
fn top(column: &ColumnDescriptor) -> &str {
    column.path().parts().first().map(String::as_str).unwrap_or_default()
}

fn is_text(column: &ColumnDescriptor) -> bool {
    column.physical_type() == Type::BYTE_ARRAY
        && (column.converted_type() == ConvertedType::UTF8 || column.logical_type_ref() == Some(&LogicalType::String))
}

/// Bytes that may be a picture: a column of its own, or `bytes` of a struct.
fn is_bytes(column: &ColumnDescriptor) -> bool {
    let parts = column.path().parts();
    column.physical_type() == Type::BYTE_ARRAY
        && column.converted_type() == ConvertedType::NONE
        && column.logical_type_ref().is_none()
        && column.max_rep_level() == 0
        && (parts.len() == 1 || (parts.len() == 2 && parts[1] == "bytes"))
}

/// A string, or a list of strings, whose leaf is called `NAME.list.element` or, by older writers, `NAME.bag.array`
/// and the like. Not a field of a struct.
fn is_plain_or_list(column: &ColumnDescriptor) -> bool {
    match column.max_rep_level() {
        0 => column.path().parts().len() == 1,
        1 => column.path().parts().len() == 3,
        _ => false,
    }
}

impl Source for Parquet {
    fn count(&self) -> u64 {
        self.samples
    }

    fn id(&self, number: u64) -> String {
        let table = self.table(number);
        format!("{}/{}", table.name, number - table.first)
    }

    fn picture_name(&self, number: u64) -> Option<String> {
        let values = self.values(number, self.table(number).picture_name?).ok()?;
        values.first()?.as_utf8().ok().map(str::to_owned)
    }

    fn picture_start(&self, number: u64, _bytes: u64) -> Result<Vec<u8>, Reason> {
        let values = self.values(number, self.table(number).picture.ok_or(Reason::NoPicture)?)?;
        let bytes = values.first().ok_or(Reason::NoPicture)?.data();
        match bytes.len() as u64 > FILE_BYTES_MAX {
            true => Err(Reason::PictureBytes { bytes: bytes.len() as u64, max: FILE_BYTES_MAX }),
            false => Ok(bytes.to_vec()),
        }
    }

    fn captions(&self, number: u64) -> Result<Captions, Reason> {
        let mut captions = Captions::default();
        for (column, name) in &self.table(number).texts {
            for value in self.values(number, *column)? {
                let bytes = value.data();
                if bytes.len() as u64 > CAPTION_BYTES_MAX {
                    return Err(Reason::CaptionBytes { bytes: bytes.len() as u64, max: CAPTION_BYTES_MAX });
                }
                captions.add(name, texts::utf8(bytes)?);
            }
        }
        Ok(captions)
    }

    fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }
}

impl std::fmt::Debug for Parquet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parquet({} files, {} samples)", self.files.len(), self.count())
    }
}
