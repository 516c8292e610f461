//! Letters of 5 columns and up to 9 rows, the last two below the line that they stand on.

/// Columns of a letter.
pub(super) const COLUMNS: usize = 5;
/// Rows above the line.
pub(super) const ROWS: usize = 7;
/// Rows in all.
pub(super) const ROWS_ALL: usize = 9;
/// Columns from a letter to the next.
pub(super) const ADVANCE: usize = 6;

/// A letter, and each of its rows as a digit to the base of 32, whose highest bit is the left column.
#[rustfmt::skip]
const LETTERS: [(char, &str); 74] = [
    (' ', ""), ('%', "op248j3"), ('(', "2488842"), (')', "8422248"), ('+', "044v440"), (',', "00000c48"),
    ('-', "000v000"), ('.', "00000cc"), ('/', "11248gg"), ('0', "ehjlphe"), ('1', "4c4444e"), ('2', "eh1248v"),
    ('3', "v2421he"), ('4', "26aiv22"), ('5', "vgu11he"), ('6', "68guhhe"), ('7', "v124888"), ('8', "ehhehhe"),
    ('9', "ehhf12c"), (':', "0cc0cc0"), ('=', "00v0v00"), ('A', "ehhvhhh"), ('B', "uhhuhhu"), ('C', "ehggghe"),
    ('D', "sihhhis"), ('E', "vgguggv"), ('F', "vgguggg"), ('G', "ehgnhhf"), ('H', "hhhvhhh"), ('I', "e44444e"),
    ('J', "72222ic"), ('K', "hikokih"), ('L', "ggggggv"), ('M', "hrllhhh"), ('N', "hhpljhh"), ('O', "ehhhhhe"),
    ('P', "uhhuggg"), ('Q', "ehhhlid"), ('R', "uhhukih"), ('S', "fgge11u"), ('T', "v444444"), ('U', "hhhhhhe"),
    ('V', "hhhhha4"), ('W', "hhhllla"), ('X', "hha4ahh"), ('Y', "hhha444"), ('Z', "v1248gv"), ('_', "000000v"),
    ('a', "00e1fhf"), ('b', "ggmphhu"), ('c', "00egghe"), ('d', "11djhhf"), ('e', "00ehvge"), ('f', "698s888"),
    ('g', "00fhhhf1e"), ('h', "ggmphhh"), ('i', "40c444e"), ('j', "2062222ic"), ('k', "ggikoki"), ('l', "c44444e"),
    ('m', "00qllhh"), ('n', "00mphhh"), ('o', "00ehhhe"), ('p', "00uhhhugg"), ('q', "00fhhhf11"), ('r', "00mpggg"),
    ('s', "00ege1u"), ('t', "88s8896"), ('u', "00hhhjd"), ('v', "00hhha4"), ('w', "00hhlla"), ('x', "00ha4ah"),
    ('y', "00hhhhf1e"), ('z', "00v248v"),
];

/// Whether the letter has a point there. One that is not in the table is an empty box.
pub(super) fn has_point(letter: char, column: usize, row: usize) -> bool {
    let rows = LETTERS.iter().find(|(known, _)| *known == letter).map_or("vhhhhhv", |(_, rows)| *rows);
    let digit = rows.chars().nth(row).and_then(|digit| digit.to_digit(32)).unwrap_or(0);
    column < COLUMNS && digit >> (COLUMNS - 1 - column) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_different_and_stand_on_their_line() {
        for (i, (letter, rows)) in LETTERS.iter().enumerate() {
            assert!(rows.len() <= ROWS_ALL && rows.chars().all(|digit| digit.is_digit(32)), "{letter}");
            assert!(LETTERS[..i].iter().all(|(other, shape)| other != letter && shape != rows), "{letter}");
        }
        let point = |row: usize, column: usize| if has_point('7', column, row) { '#' } else { '.' };
        let seven: Vec<String> = (0..ROWS).map(|row| (0..COLUMNS).map(|column| point(row, column)).collect()).collect();
        assert_eq!(seven, ["#####", "....#", "...#.", "..#..", ".#...", ".#...", ".#..."]);
        assert!(has_point('\u{e9}', 0, 3) && !has_point(' ', 0, 3), "an unknown letter is a box");
    }
}
