use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ::parquet::basic::{ConvertedType, LogicalType, Type};
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, ByteArrayType};
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use ::parquet::schema::types::ColumnDescriptor;
use bytes::Bytes;

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
    /// Columns that are being read, to go on from where they are.
    cursors: Mutex<Vec<Cursor>>,
}

struct Table {
    reader: SerializedFileReader<Reopened>,
    /// Below the root.
    name: String,
    /// The number of the first sample.
    first: u64,
    picture: usize,
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
    /// A file that is not Parquet; no column of pictures, or several.
    pub fn open(root: &Path, files: &[PathBuf], picture_column: Option<&str>) -> Result<Self, DatasetError> {
        let mut tables: Vec<Table> = Vec::new();
        let mut first = 0;
        for path in files {
            let table = Table::open(root, path, first, picture_column)?;
            first += table.rows();
            tables.push(table);
        }
        Ok(Parquet { files: tables, cursors: Mutex::default() })
    }

    /// The file, the row group and the row in it.
    fn locate(&self, number: u64) -> (usize, usize, u64) {
        let file = self.files.partition_point(|table| table.first <= number) - 1;
        let table = &self.files[file];
        let mut row = number - table.first;
        let mut group = 0;
        loop {
            let rows = table.group_rows(group);
            if row < rows {
                return (file, group, row);
            }
            row -= rows;
            group += 1;
        }
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
    fn open(root: &Path, path: &Path, first: u64, picture_column: Option<&str>) -> Result<Self, DatasetError> {
        let bytes = file::whole(path).map_err(|problem| DatasetError::reading(path, problem))?.bytes;
        let damaged = |error: ParquetError| DatasetError::Damaged { path: path.to_owned(), problem: error.to_string() };
        let reader = SerializedFileReader::new(Reopened { path: path.to_owned(), bytes }).map_err(damaged)?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let columns: Vec<_> = schema.columns().iter().enumerate().collect();
        let bytes_of =
            |name: &str| columns.iter().find(|(_, column)| is_bytes(column) && top(column) == name).map(|(at, _)| *at);
        let with_bytes: Vec<String> =
            columns.iter().filter(|(_, column)| is_bytes(column)).map(|(_, column)| top(column).to_owned()).collect();
        let all = || {
            let mut names: Vec<String> = columns.iter().map(|(_, column)| top(column).to_owned()).collect();
            names.dedup();
            names
        };
        let path = path.to_owned();
        let picture = match (picture_column, &with_bytes[..]) {
            (Some(name), _) => {
                bytes_of(name).ok_or(DatasetError::NoPictureColumn { path: path.clone(), columns: all() })?
            }
            (None, []) => return Err(DatasetError::NoPictureColumn { path, columns: all() }),
            (None, [only]) => bytes_of(only).unwrap_or_default(),
            (None, _) => match PICTURE_COLUMNS.iter().find_map(|name| bytes_of(name)) {
                Some(column) => column,
                None => return Err(DatasetError::PictureColumns { path, columns: with_bytes }),
            },
        };
        let picture_top = top(columns[picture].1).to_owned();
        let picture_name = columns
            .iter()
            .find(|(_, column)| is_text(column) && column.path().parts() == [picture_top.as_str(), "path"]);
        let texts = columns.iter().filter(|(_, column)| is_text(column) && is_plain_or_list(column));
        let relative = path.strip_prefix(root).ok().filter(|name| !name.as_os_str().is_empty());
        let name = relative.unwrap_or(Path::new(path.file_name().unwrap_or_default()));
        Ok(Table {
            name: name.to_string_lossy().replace('\\', "/"),
            first,
            picture,
            picture_name: picture_name.map(|(at, _)| *at),
            texts: texts.map(|(at, column)| (*at, top(column).to_owned())).collect(),
            reader,
        })
    }

    fn group_rows(&self, group: usize) -> u64 {
        u64::try_from(self.reader.metadata().row_group(group).num_rows()).unwrap_or(0)
    }

    /// By its row groups, which is what can be read.
    fn rows(&self) -> u64 {
        (0..self.reader.metadata().num_row_groups()).map(|group| self.group_rows(group)).sum()
    }

    fn cursor(&self, place: (usize, usize, usize)) -> Result<Cursor, ParquetError> {
        match self.reader.get_row_group(place.1)?.get_column_reader(place.2)? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(Cursor { place, row: 0, reader }),
            _ => Err(ParquetError::General("the column holds no bytes".into())),
        }
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
        self.files.last().map_or(0, |table| table.first + table.rows())
    }

    fn id(&self, number: u64) -> String {
        let table = self.table(number);
        format!("{}/{}", table.name, number - table.first)
    }

    fn picture_name(&self, number: u64) -> Option<String> {
        let values = self.values(number, self.table(number).picture_name?).ok()?;
        values.first()?.as_utf8().ok().map(str::to_owned)
    }

    fn picture(&self, number: u64) -> Result<Vec<u8>, Reason> {
        let values = self.values(number, self.table(number).picture)?;
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
        &[]
    }
}

impl std::fmt::Debug for Parquet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parquet({} files, {} samples)", self.files.len(), self.count())
    }
}
