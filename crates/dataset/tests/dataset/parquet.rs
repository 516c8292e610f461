use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaDataBuilder};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use rectiflow_dataset::{DatasetError, Reason, Texts};

use crate::support::{dataset, ids, opened, png, reasons, settings, texts, write};

/// As the hub's `datasets` writes it.
const HUB: &str = "message schema {
    OPTIONAL group image { OPTIONAL BYTE_ARRAY bytes; OPTIONAL BYTE_ARRAY path (STRING); }
    OPTIONAL BYTE_ARRAY text (STRING);
    OPTIONAL group captions (LIST) { REPEATED group list { OPTIONAL BYTE_ARRAY element (STRING); } }
    OPTIONAL INT64 width;
}";

/// A row of [`HUB`]'s table; `None` is null.
#[derive(Clone)]
struct Row {
    bytes: Option<Vec<u8>>,
    text: Option<Vec<u8>>,
    captions: Vec<&'static str>,
}

fn row(side_px: u32, text: &str) -> Row {
    Row { bytes: Some(png(side_px, side_px)), text: Some(text.as_bytes().to_vec()), captions: vec![] }
}

/// Values, definition levels and repetition levels of a column.
type Column = (Vec<ByteArray>, Vec<i16>, Vec<i16>);

fn write_table(path: &Path, groups: &[Vec<Row>], compression: Compression) {
    let schema = Arc::new(parse_message_type(HUB).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_data_page_row_count_limit(2)
        .set_write_batch_size(1)
        .build();
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let of = |value: fn(&Row) -> Option<Vec<u8>>, there: i16| -> Column {
            let values: Vec<_> = rows.iter().map(value).collect();
            let levels = values.iter().map(|value| if value.is_some() { there } else { 0 }).collect();
            (values.into_iter().flatten().map(ByteArray::from).collect(), levels, vec![])
        };
        let lists = rows.iter().flat_map(|row| match row.captions.len() {
            0 => vec![(None, 0, 0)],
            count => (0..count).map(|at| (Some(row.captions[at]), 3, i16::from(at > 0))).collect(),
        });
        let mut list: Column = Default::default();
        for (value, defined, repeated) in lists {
            list.0.extend(value.map(|text| ByteArray::from(text.as_bytes().to_vec())));
            list.1.push(defined);
            list.2.push(repeated);
        }
        let paths = of(|row| row.bytes.as_ref().map(|_| b"x.png".to_vec()), 2);
        for (values, defined, repeated) in [of(|row| row.bytes.clone(), 2), paths, of(|row| row.text.clone(), 1), list]
        {
            let mut column = group.next_column().unwrap().unwrap();
            let levels = Some(&repeated[..]).filter(|levels| !levels.is_empty());
            column.typed::<ByteArrayType>().write_batch(&values, Some(&defined), levels).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[], Some(&vec![0; rows.len()]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn rows_are_samples_in_any_order_of_asking() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Row> = (0..17).map(|number| row(40 + number, &format!("text {number}"))).collect();
    write_table(&folder.path().join("0.parquet"), &[rows[..7].to_vec(), rows[7..12].to_vec()], Compression::SNAPPY);
    let zstd = Compression::ZSTD(ZstdLevel::default());
    write_table(&folder.path().join("1.parquet"), &[rows[12..].to_vec()], zstd);
    let source = opened(folder.path());
    assert_eq!(source.count(), 17);
    assert_eq!(ids(source.as_ref())[10..13], ["0.parquet/10", "0.parquet/11", "1.parquet/0"]);
    let asked = (0..17).chain((0..17).rev()).chain([3, 14, 4, 13, 3, 3]);
    for number in asked {
        assert_eq!(source.picture(number).unwrap(), png(40 + number as u32, 40 + number as u32), "{number}");
        assert_eq!(texts(source.as_ref(), number), [format!("text=text {number}")]);
        assert_eq!(source.picture_name(number).unwrap(), "x.png");
    }
    // From several threads at once, too.
    for _ in 0..20 {
        let (read, findings) = dataset(folder.path(), "").unwrap();
        assert_eq!((read.kept().len(), findings.left_out.len()), (17, 0));
    }
}

#[test]
fn lists_of_captions_nulls_and_bad_texts_are_read_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let rows = vec![
        Row { captions: vec!["one", "two"], ..row(40, "zero") },
        Row { bytes: None, ..row(40, "no picture") },
        Row { text: None, ..row(41, "") },
        Row { text: Some(b"caf\xe9".to_vec()), ..row(42, "") },
        Row { captions: vec!["three"], ..row(43, "last") },
    ];
    write_table(&path, &[rows], Compression::UNCOMPRESSED);
    let source = opened(&path);
    assert_eq!(texts(source.as_ref(), 0), ["captions=one", "captions=two", "text=zero"]);
    assert_eq!(texts(source.as_ref(), 4), ["captions=three", "text=last"]);
    let (read, findings) = dataset(&path, "captions = { text = 1 }").unwrap();
    assert_eq!(read.kept().len(), 2);
    assert_eq!(
        reasons(&findings),
        [
            ("x.parquet/1", &Reason::NoPicture),
            ("x.parquet/2", &Reason::NoCaption),
            ("x.parquet/3", &Reason::CaptionNotUtf8)
        ]
    );
}

/// A table of one row with these columns of bytes and strings, all "x".
fn write_columns(path: &Path, columns: &[(&str, &str)]) {
    let fields: String = columns.iter().map(|(name, kind)| format!("REQUIRED BYTE_ARRAY {name}{kind};")).collect();
    let schema = Arc::new(parse_message_type(&format!("message schema {{ {fields} }}")).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    while let Some(mut column) = group.next_column().unwrap() {
        column.typed::<ByteArrayType>().write_batch(&[ByteArray::from("x")], None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn the_column_of_pictures_is_found_or_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let open = |chosen| rectiflow_dataset::open(&path, None, chosen).map(|source| source.picture(0).unwrap());
    write_columns(&path, &[("a", " (STRING)"), ("anything", "")]);
    assert_eq!(open(None).unwrap(), b"x");
    assert!(
        matches!(open(Some("a")), Err(DatasetError::NoPictureColumn { columns, .. }) if columns == ["a", "anything"])
    );
    write_columns(&path, &[("mask", ""), ("image", ""), ("depth", "")]);
    assert!(open(None).is_ok() && open(Some("depth")).is_ok());
    write_columns(&path, &[("mask", ""), ("depth", "")]);
    assert!(matches!(open(None), Err(DatasetError::PictureColumns { columns, .. }) if columns == ["mask", "depth"]));
    write_columns(&path, &[("a", " (STRING)")]);
    assert!(matches!(open(None), Err(DatasetError::NoPictureColumn { .. })));
}

#[test]
fn captions_need_no_column_of_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    for columns in [&[("text", " (STRING)")][..], &[("text", " (STRING)"), ("mask", ""), ("depth", "")]] {
        write_columns(&path, columns);
        let (texts, findings) = Texts::open(&settings(folder.path(), "")).unwrap();
        assert_eq!((texts.text(0, 0, 0).unwrap(), findings.left_out.len()), ("x".to_owned(), 0));
    }
}

#[cfg(unix)]
#[test]
fn linked_folders_of_tables_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    write_table(&folder.path().join("x.parquet"), &[vec![row(40, "text")]], Compression::UNCOMPRESSED);
    std::os::unix::fs::symlink(".", folder.path().join("more")).unwrap();
    let (_, findings) = dataset(folder.path(), "").unwrap();
    assert_eq!((findings.kept, reasons(&findings)), (1, vec![("more", &Reason::LinkToFolder)]));
}

/// Writes the table again, with another footer.
fn write_footer(path: &Path, whole: &[u8], change: impl Fn(RowGroupMetaDataBuilder) -> RowGroupMetaDataBuilder) {
    let bytes = bytes::Bytes::copy_from_slice(whole);
    let mut footer = ParquetMetaDataReader::new().parse_and_finish(&bytes).unwrap().into_builder();
    let groups = footer.take_row_groups().into_iter().map(|group| change(group.into_builder()).build().unwrap());
    let footer = footer.set_row_groups(groups.collect()).build();
    let mut table = whole.to_vec();
    ParquetMetaDataWriter::new(&mut table, &footer).finish().unwrap();
    std::fs::write(path, table).unwrap();
}

#[test]
fn footers_that_contradict_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let rows = vec![Row { captions: vec!["one", "two"], ..row(40, "zero") }, row(41, "one")];
    write_table(&path, &[rows.clone(), rows.clone(), rows], Compression::UNCOMPRESSED);
    let whole = std::fs::read(&path).unwrap();
    let values = |mut group: RowGroupMetaDataBuilder, count| {
        let columns =
            group.take_columns().into_iter().map(|column| column.into_builder().set_num_values(count).build().unwrap());
        group.set_column_metadata(columns.collect())
    };
    write_footer(&path, &whole, |group| group);
    assert_eq!(dataset(&path, "captions = { text = 1 }").unwrap().1.kept, 6);
    let count = 1_000_000_000_000;
    let refused = |part: &str| {
        let error = dataset(&path, "").map(drop).unwrap_err();
        assert!(matches!(error, DatasetError::Damaged { .. }) && error.to_string().contains(part), "{error}");
    };
    write_footer(&path, &whole, |group| group.set_num_rows(count));
    refused("row group 0 should have 1000000000000 rows, and its column `text` has 2 values");
    write_footer(&path, &whole, |group| values(group.set_num_rows(-1), -1));
    refused("row group 0 should have -1 rows");
    write_footer(&path, &whole, |group| values(group.set_num_rows(i64::MAX), i64::MAX));
    refused("more rows than can be counted");
}

#[test]
fn damaged_tables_are_refused_or_their_rows_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let rows: Vec<Row> = (0..6).map(|number| row(40, &format!("text {number}"))).collect();
    write_table(&path, &[rows], Compression::UNCOMPRESSED);
    let whole = std::fs::read(&path).unwrap();
    write(folder.path(), &[("x.parquet", &whole[..whole.len() - 9])]);
    let error = dataset(folder.path(), "").map(|_| ()).unwrap_err();
    assert!(matches!(error, DatasetError::Damaged { .. }), "{error}");
    // Pages of noise under a footer that is whole.
    let mut noise = whole.clone();
    noise[4..whole.len() / 2].fill(0xa5);
    write(folder.path(), &[("x.parquet", &noise)]);
    match dataset(folder.path(), "") {
        Ok((_, findings)) => assert!(!findings.left_out.is_empty()),
        Err(error) => assert!(matches!(error, DatasetError::NoCaptions { .. } | DatasetError::Empty { .. }), "{error}"),
    }
}
