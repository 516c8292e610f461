//! `left-out.jsonl`: the samples that a run or a cache does not use, each with its reason.

use std::io;
use std::path::Path;

use anyhow::Context;
use rectiflow_dataset::Findings;
use rectiflow_weights::{IfThere, shown, write_whole};

const NAME: &str = "left-out.jsonl";

/// Lists what is left out in a folder, and returns what to say of the data. Where nothing is, no list is there,
/// not even that of an earlier start.
pub(crate) fn list(findings: &Findings, folder: &Path) -> anyhow::Result<String> {
    let path = folder.join(NAME);
    let all = findings.left_out.len();
    if all == 0 {
        return match std::fs::remove_file(&path) {
            Err(problem) if problem.kind() != io::ErrorKind::NotFound => {
                Err(problem).with_context(|| format!("{} is of earlier data and cannot be removed", shown(&path)))
            }
            _ => Ok(findings.to_string()),
        };
    }
    let mut listed = 0;
    write_whole(&path, IfThere::Replace, |out| {
        listed = findings.list_left_out(out)?;
        Ok(())
    })
    .with_context(|| format!("{} cannot be written", shown(&path)))?;
    let which = if listed == all { "all".to_owned() } else { format!("the first {listed}") };
    Ok(format!("{findings}\n  {which} are listed in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rectiflow_dataset::Reason;

    #[test]
    fn a_list_is_there_only_where_something_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let mut findings = Findings::default();
        findings.keep(&[]);
        findings.leave_out(1, "b.png".into(), Reason::NoCaption);
        let said = list(&findings, folder.path()).unwrap();
        assert!(said.ends_with(&format!("\n  all are listed in {}", path.display())), "{said}");
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"sample\":1,\"id\":\"b.png\",\"reason\":\"it has no caption\"}\n"
        );
        // The data were mended before the run was gone on with.
        findings.left_out.clear();
        assert_eq!(list(&findings, folder.path()).unwrap(), "1 samples");
        assert!(!path.exists());
        assert!(list(&findings, folder.path()).is_ok());
    }
}
