//! Directories of the host that a defined machine has, read back from its document: libvirt starts that document, whatever the
//! configuration, a template of the admin's or an older version of this program says.

use std::path::{Path, PathBuf};

use roxmltree::Node;

use super::transport::READER;

/// A directory of the host in a domain's document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinedShare {
    /// The directory.
    pub source: PathBuf,
    /// `9p` or `virtiofs`.
    pub transport: &'static str,
    /// Whether the host refuses to write.
    pub read_only: bool,
}

/// Returns the shares in the document of a domain; none if it is no document.
pub fn of_document(xml: &str) -> Vec<DefinedShare> {
    let Ok(document) = roxmltree::Document::parse(xml) else {
        return vec![];
    };
    let filesystems = document
        .descendants()
        .filter(|node| node.has_tag_name("filesystem"));
    filesystems.filter_map(of_filesystem).collect()
}

fn of_filesystem(node: Node<'_, '_>) -> Option<DefinedShare> {
    let child = |name| node.children().find(|child| child.has_tag_name(name));
    let attribute = |name, attribute| child(name).and_then(|child| child.attribute(attribute));
    let is_virtiofs = attribute("driver", "type") == Some("virtiofs");
    let program = attribute("binary", "path").and_then(|path| Path::new(path).file_name());
    Some(DefinedShare {
        source: attribute("source", "dir")?.into(),
        transport: match is_virtiofs {
            true => "virtiofs",
            false => "9p",
        },
        read_only: child("readonly").is_some()
            || (is_virtiofs && program.is_some_and(|name| name == READER)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_only_where_the_host_refuses_to_write() {
        let virtiofs = "<driver type='virtiofs'/>";
        for (inside, transport, read_only) in [
            ("<readonly/>", "9p", true),
            ("", "9p", false),
            (virtiofs, "virtiofs", false),
            (
                "<driver type='virtiofs'/><binary path='/usr/libexec/virtiofsd'/>",
                "virtiofs",
                false,
            ),
            (
                "<driver type='virtiofs'/><binary path='/usr/bin/virt-sandbox-virtiofsd'/>",
                "virtiofs",
                true,
            ),
            ("<driver type='virtiofs'/><readonly/>", "virtiofs", true),
            (
                "<binary path='/usr/bin/virt-sandbox-virtiofsd'/>",
                "9p",
                false,
            ),
        ] {
            let xml = format!(
                "<domain><devices><filesystem>{inside}<source dir='/usr'/></filesystem></devices></domain>"
            );
            let expected = DefinedShare {
                source: "/usr".into(),
                transport,
                read_only,
            };
            assert_eq!(of_document(&xml), [expected], "{inside}");
        }
        assert_eq!(of_document("<domain/>"), []);
        assert_eq!(of_document("no document"), []);
    }
}
