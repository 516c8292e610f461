use super::record::{crc32c, framed};
use super::*;
use rectiflow_generate::{Image, sheet};
use rectiflow_weights::IfThere;

/// What a record says.
#[derive(Debug, PartialEq)]
enum Said {
    Version(String),
    /// Steps from this one on are forgotten.
    Start(u64),
    Scalar(u64, String, f32),
    Image(u64, String, [u64; 2], Vec<u8>),
    Text(u64, String, String),
}

/// A value of a field: a number or bytes.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn number(&self) -> u64 {
        let Value::Number(number) = self else { panic!("bytes") };
        *number
    }

    fn bytes(&self) -> &'a [u8] {
        let Value::Bytes(bytes) = self else { panic!("a number") };
        bytes
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }

    fn field(&self, number: u64) -> Option<Value<'a>> {
        fields(self.bytes()).into_iter().find(|(field, _)| *field == number).map(|(_, value)| value)
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let mut take = |count: usize| bytes.split_off(..count).unwrap();
        let value = match key & 7 {
            1 => Value::Number(u64::from_le_bytes(take(8).try_into().unwrap())),
            5 => Value::Number(u32::from_le_bytes(take(4).try_into().unwrap()).into()),
            0 => Value::Number(varint(&mut bytes)),
            kind => {
                assert_eq!(kind, 2);
                let length = varint(&mut bytes);
                Value::Bytes(bytes.split_off(..length as usize).unwrap())
            }
        };
        all.push((key >> 3, value));
    }
    all
}

fn said(mut file: &[u8]) -> Vec<Said> {
    let mut all = Vec::new();
    while !file.is_empty() {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let (record, rest) = file.split_at(length + 16);
        let data = &record[12..12 + length];
        assert_eq!(record, framed(data));
        file = rest;
        let event = Value::Bytes(data);
        let time = f64::from_bits(event.field(1).unwrap().number());
        assert!(time > 1.7e9, "seconds since 1970: {time}");
        let step = event.field(2).unwrap().number();
        if let Some(version) = event.field(3) {
            all.push(Said::Version(version.text()));
        }
        if let Some(session) = event.field(7) {
            assert_eq!(session.field(1).unwrap().number(), 1);
            all.push(Said::Start(step));
        }
        for (_, value) in event.field(5).map_or(Vec::new(), |summary| fields(summary.bytes())) {
            let tag = value.field(1).unwrap().text();
            if let Some(number) = value.field(2) {
                all.push(Said::Scalar(step, tag, f32::from_bits(number.number() as u32)));
            } else if let Some(image) = value.field(4) {
                let sides = [2, 1].map(|side| image.field(side).unwrap().number());
                all.push(Said::Image(step, tag, sides, image.field(4).unwrap().bytes().to_vec()));
            } else {
                let plugin = value.field(9).unwrap().field(1).unwrap().field(1).unwrap().text();
                assert_eq!(plugin, "text");
                all.push(Said::Text(step, tag, value.field(8).unwrap().field(8).unwrap().text()));
            }
        }
    }
    all
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(PREFIX));
    files.sort();
    files
}

fn step(step: u64, loss: f64) -> Event {
    Event::Step { step, values: [("loss".to_owned(), loss)].into(), seconds: 0.25 }
}

#[test]
fn checksums_are_those_of_the_standard() {
    // RFC 3720, appendix B.4, and the usual check value of the polynomial.
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    // What TensorBoard's own writer makes of the record "123456789".
    let expected = "0900000000000000\
                    37f97139\
                    313233343536373839\
                    e5b08ac7";
    let hex: String = framed(b"123456789").iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected);
}

#[test]
fn a_file_says_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let tile = Image { width: 4, height: 2, rgb: vec![9; 24] };
    fs::create_dir(root.join("samples")).unwrap();
    sheet(&[tile], 1).save_png(&root.join("samples/a.png"), IfThere::Replace, &[]).unwrap();
    let mut board = TensorBoard::open(root, 0).unwrap();
    board.plan("steps = 9\nbatch = 2").unwrap();
    board.record(&Event::Started { step: 0, steps: 9, time: 0.0 }, root).unwrap();
    board.record(&step(300, 0.5), root).unwrap();
    let values = [("loss".to_owned(), 0.75), ("loss/sigma_0.25".to_owned(), f64::NAN)].into();
    board.record(&Event::Validation { step: 300, values }, root).unwrap();
    board.record(&Event::Samples { step: 300, file: "samples/a.png".into() }, root).unwrap();
    board.record(&Event::Note { step: 300, text: "grüße".to_owned() }, root).unwrap();

    let all = said(&fs::read(&files(root)[0]).unwrap());
    let scalar = |tag: &str, value| Said::Scalar(300, tag.to_owned(), value);
    assert_eq!(
        all[..6],
        [
            Said::Version("brain.Event:2".to_owned()),
            Said::Start(1),
            Said::Text(0, "plan".to_owned(), "    steps = 9\n    batch = 2".to_owned()),
            scalar("train/loss", 0.5),
            scalar("train/seconds_a_step", 0.25),
            scalar("validation/loss", 0.75),
        ]
    );
    let Said::Scalar(300, tag, value) = &all[6] else { panic!("{:?}", all[6]) };
    assert!(tag == "validation/loss/sigma_0.25" && value.is_nan());
    let png = fs::read(root.join("samples/a.png")).unwrap();
    assert_eq!(
        all[7..],
        [Said::Image(300, "samples".to_owned(), [8, 6], png), Said::Text(300, "notes".to_owned(), "grüße".to_owned())]
    );
}

#[test]
fn a_run_that_goes_on_takes_back_the_later_steps_of_the_file_before() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    // A file from the future: clocks are set back.
    fs::write(root.join(format!("{PREFIX}9000000000.rectiflow")), "").unwrap();
    let mut board = TensorBoard::open(root, 100).unwrap();
    board.record(&step(110, 0.5), root).unwrap();
    let files = files(root);
    assert!(files[1].ends_with(format!("{PREFIX}9000000001.rectiflow")), "{files:?}");
    assert_eq!(said(&fs::read(&files[1]).unwrap())[1], Said::Start(101));
}

#[test]
fn a_run_that_went_back_takes_back_what_it_does_again() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut board = TensorBoard::open(root, 0).unwrap();
    board.record(&step(50, 0.5), root).unwrap();
    board.record(&Event::Note { step: 20, text: "back".to_owned() }, root).unwrap();
    let all = said(&fs::read(&files(root)[0]).unwrap());
    assert_eq!(all[4..], [Said::Start(21), Said::Text(20, "notes".to_owned(), "back".to_owned())]);
}

#[test]
fn a_sheet_that_is_gone_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut board = TensorBoard::open(folder.path(), 0).unwrap();
    let samples = Event::Samples { step: 1, file: "samples/none.png".into() };
    assert!(board.record(&samples, folder.path()).is_err());
}
