//! Texts as EXIF, where JPEG and WebP keep them.
//!
//! `parameters` is the user comment, in the form that AUTOMATIC1111's web UI writes: `UNICODE`, a zero, and UTF-16 with
//! the high byte first. `rectiflow` is the maker note, which the standard leaves to whoever makes a picture: that word, a
//! zero, and UTF-8. Viewers show neither as a caption.

use std::io::Cursor;

use exif::experimental::Writer;
use exif::{Exif, Field, In, Tag, Value};

/// Before the maker's own bytes.
const MAKER: &[u8] = b"rectiflow\0";
/// Before a comment of UTF-16.
const UNICODE: &[u8; 8] = b"UNICODE\0";
/// Before a comment of ASCII.
const ASCII: &[u8; 8] = b"ASCII\0\0\0";

/// The fields of these texts, as they stand in a file behind `Exif\0\0`.
pub(crate) fn packed(texts: &[(&str, String)]) -> Vec<u8> {
    let field = |tag, value| Field { tag, ifd_num: In::PRIMARY, value };
    let mut fields = vec![field(Tag::Software, Value::Ascii(vec![b"rectiflow".to_vec()]))];
    for (keyword, text) in texts {
        match *keyword {
            "parameters" => {
                let units = text.encode_utf16().flat_map(u16::to_be_bytes);
                fields
                    .push(field(Tag::UserComment, Value::Undefined(UNICODE.iter().copied().chain(units).collect(), 0)));
            }
            "rectiflow" => fields.push(field(Tag::MakerNote, Value::Undefined([MAKER, text.as_bytes()].concat(), 0))),
            _ => {}
        }
    }
    let (mut writer, mut bytes) = (Writer::new(), Cursor::new(Vec::new()));
    fields.iter().for_each(|field| writer.push_field(field));
    writer.write(&mut bytes, false).expect("some fields are written to memory");
    bytes.into_inner()
}

/// The texts in a JPEG or WebP file. What is not there, damaged or in no form that is known is left out.
pub(crate) fn texts(file: &[u8]) -> Vec<(String, String)> {
    let Ok(exif) = exif::Reader::new().read_from_container(&mut Cursor::new(file)) else { return Vec::new() };
    let field = |tag| bytes_of(&exif, tag);
    let comment = field(Tag::UserComment).and_then(comment).map(|text| ("parameters".to_owned(), text));
    let maker = field(Tag::MakerNote).and_then(|bytes| bytes.strip_prefix(MAKER));
    let maker = maker.and_then(|bytes| Some(("rectiflow".to_owned(), String::from_utf8(bytes.to_vec()).ok()?)));
    comment.into_iter().chain(maker).collect()
}

fn bytes_of(exif: &Exif, tag: Tag) -> Option<&[u8]> {
    match &exif.get_field(tag, In::PRIMARY)?.value {
        Value::Undefined(bytes, _) => Some(bytes),
        _ => None,
    }
}

fn comment(bytes: &[u8]) -> Option<String> {
    if let Some(text) = bytes.strip_prefix(ASCII) {
        return String::from_utf8(text.to_vec()).ok();
    }
    let units = bytes.strip_prefix(UNICODE)?.as_chunks().0;
    // The standard does not say which byte is first. Before an ordinary letter the high one is zero.
    let is_little = matches!(units.first(), Some([low, 0]) if *low != 0);
    let unit = |pair: &[u8; 2]| if is_little { u16::from_le_bytes(*pair) } else { u16::from_be_bytes(*pair) };
    String::from_utf16(&units.iter().map(unit).collect::<Vec<_>>()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_of_other_programs_are_read() {
        let little: Vec<u8> = UNICODE.iter().copied().chain("cät".encode_utf16().flat_map(u16::to_le_bytes)).collect();
        assert_eq!(comment(&little).as_deref(), Some("cät"));
        let big: Vec<u8> = UNICODE.iter().copied().chain("猫 t".encode_utf16().flat_map(u16::to_be_bytes)).collect();
        assert_eq!(comment(&big).as_deref(), Some("猫 t"));
        assert_eq!(comment(b"ASCII\0\0\0cat").as_deref(), Some("cat"));
        // Half a pair, and no form at all.
        assert_eq!(comment(b"UNICODE\0\xd8\x3d"), None);
        assert_eq!(comment(b"cat"), None);
    }

    #[test]
    fn fields_that_are_cut_anywhere_are_no_texts_and_no_panic() {
        let fields = packed(&[("parameters", "cat".into()), ("rectiflow", "{}".into())]);
        let jpeg = |fields: &[u8]| {
            let length = (fields.len() as u16 + 8).to_be_bytes();
            [&[0xff, 0xd8, 0xff, 0xe1][..], &length, b"Exif\0\0", fields, &[0xff, 0xd9]].concat()
        };
        assert_eq!(texts(&jpeg(&fields)).len(), 2);
        for end in 0..fields.len() {
            assert!(texts(&jpeg(&fields[..end])).len() < 2, "{end}");
        }
        for place in 0..fields.len() {
            let mut other = fields.clone();
            other[place] ^= 0xff;
            let _ = texts(&jpeg(&other));
        }
    }
}
