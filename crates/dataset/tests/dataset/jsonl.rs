use rectiflow_dataset::Reason;

use crate::support::{dataset, ids, opened, png, reasons, texts, write};

#[test]
fn lines_name_pictures_under_the_keys_of_several_tools() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = png(40, 40);
    let list = concat!(
        "{\"file\": \"pictures/a.png\", \"caption\": \"an apple\", \"synthetic\": [\"red\", \"round\"]}\r\n",
        "\n",
        "{\"file_name\": \"pictures/b.png\", \"text\": \"a pear\"}\n",
        "{\"image\": \"pictures/c.png\", \"text\": \"a plum\", \"width\": 7}",
    );
    write(
        folder.path(),
        &[
            ("list.jsonl", list.as_bytes()),
            ("pictures/a.png", &bytes),
            ("pictures/b.png", &bytes),
            ("pictures/c.png", &bytes),
        ],
    );
    let source = opened(&folder.path().join("list.jsonl"));
    assert_eq!(ids(source.as_ref()), ["pictures/a.png", "pictures/b.png", "pictures/c.png"]);
    assert_eq!(texts(source.as_ref(), 0), ["caption=an apple", "synthetic=red", "synthetic=round"]);
    assert_eq!(texts(source.as_ref(), 2), ["text=a plum"]);
    assert_eq!(source.picture(2).unwrap(), bytes);
    assert_eq!(source.left_out(), []);
}

#[cfg(unix)]
#[test]
fn linked_folders_are_listed_unless_the_list_names_pictures_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let list = b"{\"file\": \"linked/a.png\", \"caption\": \"a\"}\n";
    write(folder.path(), &[("here/list.jsonl", list), ("elsewhere/a.png", &png(40, 40))]);
    let here = folder.path().join("here");
    for name in ["linked", "other"] {
        std::os::unix::fs::symlink("../elsewhere", here.join(name)).unwrap();
    }
    let (_, findings) = dataset(&here, "").unwrap();
    assert_eq!((findings.kept, reasons(&findings)), (1, vec![("other", &Reason::LinkToFolder)]));
    // The list at the top goes before all others, wherever they are.
    write(&here, &[("metadata.jsonl", list)]);
    assert_eq!(reasons(&dataset(&here, "").unwrap().1), []);
}

#[test]
fn bad_lines_and_missing_pictures_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let list = b"{\"file\": \"a.png\", \"caption\": \"a\"}\n{oops\n[1]\n{\"caption\": \"x\"}\n{\"file\": \"\"}\n{\"file\": 3}\n\
        {\"file\": \"gone.png\", \"caption\": \"g\"}\n{\"file\": \"a.png\", \"caption\": \"caf\xe9\"}\n{\"file\": \"a.png\"}\n";
    write(folder.path(), &[("metadata.jsonl", list), ("a.png", &png(40, 40))]);
    let (read, findings) = dataset(folder.path(), "").unwrap();
    assert_eq!(read.kept().len(), 1);
    let listed = reasons(&findings);
    assert!(matches!(listed[0], ("line 2", Reason::BadJson(_))));
    assert!(matches!(listed[1], ("line 3", Reason::BadJson(_))));
    assert_eq!(
        listed[2..5],
        [("line 4", &Reason::NoPicture), ("line 5", &Reason::NoPicture), ("line 6", &Reason::NoPicture)]
    );
    assert_eq!(listed[5], ("line 8", &Reason::CaptionNotUtf8));
    assert_eq!(listed[6], ("gone.png", &Reason::PictureNotThere));
    assert_eq!(listed[7], ("a.png", &Reason::NoCaption));
    assert_eq!(listed.len(), 8);
}
