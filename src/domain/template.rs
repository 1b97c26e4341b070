//! Templates of documents: built in, and replaceable by the admin in `/etc/libvirt-sandbox/templates`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use tera::{Context, Tera};

use crate::config::is_unwritable;
use crate::error::{Error, Result};

/// Directory of the admin's own templates.
pub const OVERRIDES: &str = "/etc/libvirt-sandbox/templates";

/// A document made from a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// The XML of a container.
    LxcDomain,
    /// The XML of a virtual machine.
    QemuDomain,
    /// The host's unit of a sandbox.
    HostUnit,
    /// The host's socket unit of a sandbox that is started on demand.
    HostSocket,
    /// The boot target inside.
    BootTarget,
    /// A unit that initialises something inside before the service starts.
    InitUnit,
    /// The AppArmor profile of a container.
    ContainerProfile,
    /// The unit of a command inside.
    CommandUnit,
    /// The unit that ends a sandbox after its command.
    EndUnit,
}

impl Template {
    /// Returns the file below the directory of templates. Values in files that end in `.xml` are escaped for XML.
    const fn file(self) -> &'static str {
        match self {
            Self::LxcDomain => "domain/lxc.xml",
            Self::QemuDomain => "domain/qemu.xml",
            Self::HostUnit => "unit/sandbox.service",
            Self::HostSocket => "unit/sandbox.socket",
            Self::BootTarget => "unit/virt-sandbox.target",
            Self::InitUnit => "unit/init.service",
            Self::ContainerProfile => "apparmor/container",
            Self::CommandUnit => "unit/command.service",
            Self::EndUnit => "unit/end.service",
        }
    }

    const fn built_in(self) -> &'static str {
        match self {
            Self::LxcDomain => include_str!("../../templates/domain/lxc.xml"),
            Self::QemuDomain => include_str!("../../templates/domain/qemu.xml"),
            Self::HostUnit => include_str!("../../templates/unit/sandbox.service"),
            Self::HostSocket => include_str!("../../templates/unit/sandbox.socket"),
            Self::BootTarget => include_str!("../../templates/unit/virt-sandbox.target"),
            Self::InitUnit => include_str!("../../templates/unit/init.service"),
            Self::ContainerProfile => include_str!("../../templates/apparmor/container"),
            Self::CommandUnit => include_str!("../../templates/unit/command.service"),
            Self::EndUnit => include_str!("../../templates/unit/end.service"),
        }
    }

    /// Returns the file that replaces it, if templates are in `overrides`.
    #[must_use]
    pub fn path(self, overrides: &Path) -> PathBuf {
        overrides.join(self.file())
    }

    /// Renders `view`. A template of the same file name below `overrides` is used instead of the
    /// built-in one.
    ///
    /// # Errors
    /// Where the template does not parse or names a field that `view` does not have; for XML also where a text has a character that
    /// XML cannot carry.
    pub fn render(self, view: &impl Serialize, overrides: Option<&Path>) -> Result<String> {
        let path = overrides.map(|dir| self.path(dir));
        let replaced = path
            .as_deref()
            .map(std::fs::read_to_string)
            .and_then(Result::ok);
        let shown = match (&replaced, &path) {
            (Some(_), Some(path)) => path.display().to_string(),
            (None | Some(_), None) | (None, Some(_)) => self.file().to_owned(),
        };
        let failed = |error: tera::Error| {
            let mut reason = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                reason = format!("{reason}: {inner}");
                cause = inner.source();
            }
            Error::Config {
                path: shown.clone().into(),
                reason,
            }
        };
        let mut tera = Tera::default();
        tera.register_filter("unit_value", unit_value);
        tera.register_filter("unit_text", unit_text);
        tera.register_filter("unit_path", unit_path);
        tera.add_raw_template(self.file(), replaced.as_deref().unwrap_or(self.built_in()))
            .map_err(failed)?;
        if self.file().ends_with(".xml") {
            let value = serde_json::to_value(view).map_err(Error::step("making the domain"))?;
            check_xml(&value)?;
        }
        let context = Context::from_serialize(view).map_err(failed)?;
        tera.render(self.file(), &context).map_err(failed)
    }
}

/// Refuses characters that cannot be escaped in XML: the parser at the other end would read something else, or nothing.
fn check_xml(value: &Value) -> Result<()> {
    match value {
        Value::String(text) if text.chars().any(is_unwritable) => Err(Error::refused(format!(
            "{text:?} has a character that libvirt's XML cannot carry; choose another name"
        ))),
        Value::Array(values) => values.iter().try_for_each(check_xml),
        Value::Object(members) => members.values().try_for_each(check_xml),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// Filter `unit_value`: quotes a word against `systemd.syntax(7)`, specifiers and variables.
fn unit_value(text: &str, _: tera::Kwargs, _: &tera::State<'_>) -> tera::TeraResult<String> {
    Ok(escape_word(text))
}

/// Filter `unit_text`: quotes a word where variables are not expanded (`Environment=`, and a command after `:`).
fn unit_text(text: &str, _: tera::Kwargs, _: &tera::State<'_>) -> tera::TeraResult<String> {
    Ok(escape(text, "$"))
}

/// Filter `unit_path`: escapes a path for a setting that takes the rest of its line literally, but for specifiers.
fn unit_path(text: &str, _: tera::Kwargs, _: &tera::State<'_>) -> tera::TeraResult<String> {
    let mut path = text.replace('%', "%%").replace(char::is_control, "");
    // A backslash would take the next line along, and a space would be dropped (systemd.syntax(7)).
    if path.ends_with(|last: char| last == '\\' || last.is_whitespace()) {
        path.push('/');
    }
    Ok(path)
}

/// Quotes a word for a unit file: specifiers (`%`), variables (`$`), quotes, backslashes and line ends have no effect.
#[must_use]
pub fn escape_word(text: &str) -> String {
    escape(text, "$$")
}

fn escape(text: &str, dollar: &str) -> String {
    let mut result = String::from("\"");
    for c in text.chars() {
        match c {
            '%' => result.push_str("%%"),
            '$' => result.push_str(dollar),
            '"' => result.push_str("\\\""),
            '\\' => result.push_str("\\\\"),
            '\n' => result.push_str("\\n"),
            c if c.is_control() => result.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => result.push(c),
        }
    }
    result.push('"');
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_xml_cannot_carry_are_refused() {
        for text in ["/a\nb", "/\u{1}", "/\u{ffff}"] {
            let value = serde_json::json!({ "name": "x", "paths": [{ "source": text }] });
            assert!(check_xml(&value).is_err(), "{text:?}");
        }
        let value = serde_json::json!({ "name": "<é ]]>", "paths": ["/a b"], "count": 1 });
        check_xml(&value).unwrap();
    }

    #[test]
    fn words_of_units_are_quoted() {
        assert_eq!(
            escape_word("a b%i$X\"\\\n\u{1}"),
            r#""a b%%i$$X\"\\\n\x01""#
        );
    }
}
