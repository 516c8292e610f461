//! How far what was read is from what was asked.

/// Small letters of the Latin alphabet, and nothing else: what is compared.
pub fn letters(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_lowercase()).collect()
}

/// How many letters must be put in, left out or replaced to make `read` of `asked`: Levenshtein's distance. By the
/// number of asked letters it is the character error rate, which is above 1 where much is read that nobody asked.
pub fn edits(asked: &str, read: &str) -> usize {
    let (asked, read) = (asked.as_bytes(), read.as_bytes());
    let mut row: Vec<usize> = (0..=read.len()).collect();
    for (above, one) in (1..).zip(asked) {
        let mut diagonal = row[0];
        row[0] = above;
        for (at, other) in (1..).zip(read) {
            let replaced = diagonal + usize::from(one != other);
            diagonal = row[at];
            row[at] = replaced.min(row[at] + 1).min(row[at - 1] + 1);
        }
    }
    row[read.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_those_that_a_person_would_make() {
        for (asked, read, expected) in [
            ("kitten", "sitting", 3),
            ("hello", "hello", 0),
            ("hello", "", 5),
            ("", "ab", 2),
            ("hello", "helo", 1),
            ("sun", "suns", 1),
            ("abc", "cab", 2),
        ] {
            assert_eq!(edits(asked, read), expected, "{asked} {read}");
            assert_eq!(edits(read, asked), expected, "{read} {asked}");
        }
    }

    #[test]
    fn only_letters_count_and_capitals_do_not() {
        assert_eq!(letters(" He-LLo 9\n"), "hello");
    }
}
