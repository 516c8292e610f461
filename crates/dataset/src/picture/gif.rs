/// What a GIF's blocks say that its decoder does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gif {
    /// Whether it moves.
    pub(super) second_frame: bool,
    /// Whether something shines through the first frame.
    pub(super) transparent: bool,
}

/// Goes from block to block up to the second frame (GIF89a specification, appendix B). What is cut short has none.
pub(super) fn walk(bytes: &[u8]) -> Gif {
    let mut gif = Gif::default();
    // A walk that ends early has seen what there was.
    let _ = blocks(bytes, &mut gif);
    gif
}

fn blocks(bytes: &[u8], gif: &mut Gif) -> Option<()> {
    let canvas = bytes.get(6..10)?;
    let mut at = 13 + table_bytes(*bytes.get(10)?);
    let mut frames = 0;
    loop {
        match bytes.get(at)? {
            // An extension: its label, then its sub-blocks.
            0x21 => {
                // The graphic control's flags come after the size of its only sub-block.
                if *bytes.get(at + 1)? == 0xf9 && frames == 0 {
                    gif.transparent |= bytes.get(at + 3)? & 1 == 1;
                }
                at = after_sub_blocks(bytes, at + 2)?;
            }
            // A frame: its place and size, its flags, its colours, the code size, then its sub-blocks.
            0x2c => {
                frames += 1;
                if frames == 2 {
                    gif.second_frame = true;
                    return Some(());
                }
                gif.transparent |= bytes.get(at + 1..at + 9)? != [&[0; 4], canvas].concat();
                at = after_sub_blocks(bytes, at + 11 + table_bytes(*bytes.get(at + 9)?))?;
            }
            _ => return None,
        }
    }
}

/// Bytes of the colour table that the flags announce.
fn table_bytes(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// The sub-blocks at `at`, each with its length before it, end with an empty one.
fn after_sub_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let len = usize::from(*bytes.get(at)?);
        at += 1 + len;
        if len == 0 {
            return Some(at);
        }
    }
}
