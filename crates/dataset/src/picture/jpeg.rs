/// What a JPEG's markers say that its decoder does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Jpeg {
    /// Channels of the first frame: 1 grey, 3 colour, 4 inks.
    pub(super) components: Option<u8>,
    /// Whether the picture's end is there.
    pub(super) ends: bool,
}

/// Goes from marker to marker (ITU-T T.81, annex B). Markers inside a segment, as of a thumbnail, are passed over.
pub(super) fn walk(bytes: &[u8]) -> Jpeg {
    let mut jpeg = Jpeg::default();
    let mut at = 0;
    loop {
        // In compressed data a 0xff is followed by 0; several may come before a marker.
        let Some(offset) = bytes.get(at..).and_then(|rest| rest.windows(2).position(is_marker)) else {
            return jpeg;
        };
        at += offset + 2;
        match bytes[at - 1] {
            0xd9 => {
                jpeg.ends = true;
                return jpeg;
            }
            // Without a length: the start of the picture, restarts, and the one that is for arithmetic coding.
            0x01 | 0xd0..=0xd8 => {}
            marker => {
                let Some(&[high, low]) = bytes.get(at..at + 2) else {
                    return jpeg;
                };
                let is_frame = matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc);
                if is_frame && jpeg.components.is_none() {
                    jpeg.components = bytes.get(at + 7).copied();
                }
                at += usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
}

fn is_marker(pair: &[u8]) -> bool {
    pair[0] == 0xff && !matches!(pair[1], 0 | 0xff)
}
