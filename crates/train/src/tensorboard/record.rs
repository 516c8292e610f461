//! Records of a file, each with checksums.

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4) of each byte.
const TABLE: [u32; 256] = {
    const POLYNOMIAL_REVERSED: u32 = 0x82f6_3b78;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL_REVERSED * (crc & 1));
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

pub(super) fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc: u32, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// So that a checksum of data that holds checksums is none of them: `lib/hash/crc32c.h`.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A record: length, its checksum, data, its checksum.
pub(super) fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let checksum = |data: &[u8]| masked(crc32c(data)).to_le_bytes();
    [&length[..], &checksum(&length), data, &checksum(data)].concat()
}
