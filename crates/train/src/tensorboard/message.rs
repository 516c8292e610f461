//! Protocol buffers, as far as an event needs them.
//!
//! Source: protobuf.dev/programming-guides/encoding. A field is `number << 3 | kind`, then its value.

/// Kinds of values on the wire.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

/// Fields, one after the other.
#[derive(Default)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// An integer that is not negative.
    pub(super) fn whole(&mut self, field: u32, value: u64) {
        self.key(field, VARINT);
        self.varint(value);
    }

    pub(super) fn double(&mut self, field: u32, value: f64) {
        self.key(field, FIXED_64);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn float(&mut self, field: u32, value: f32) {
        self.key(field, FIXED_32);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn data(&mut self, field: u32, value: &[u8]) {
        self.key(field, BYTES);
        self.varint(value.len() as u64);
        self.bytes.extend(value);
    }

    pub(super) fn text(&mut self, field: u32, value: &str) {
        self.data(field, value.as_bytes());
    }

    pub(super) fn message(&mut self, field: u32, value: Message) {
        self.data(field, &value.bytes);
    }

    /// The fields of another message of the same type.
    pub(super) fn append(&mut self, other: Message) {
        self.bytes.extend(other.bytes);
    }

    fn key(&mut self, field: u32, kind: u64) {
        self.varint(u64::from(field) << 3 | kind);
    }

    /// Seven bits a byte, the lowest first; the eighth says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}
