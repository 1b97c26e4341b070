//! Reader of single facts from the settings of a unit.

use super::*;

/// Unit whose facts are read, and the settings that could not be used.
pub(super) struct Reader<'a> {
    pub unit: &'a Unit,
    pub specifiers: &'a Specifiers,
    pub unresolved: BTreeSet<char>,
    pub ignored: Vec<String>,
}

impl Reader<'_> {
    fn expand(&mut self, text: &str) -> String {
        let fragment = match &self.unit.source {
            UnitSource::Fragment(path) => Some(path.as_path()),
            UnitSource::SysV { .. } => None,
        };
        let owner = Owner {
            name: &self.unit.name,
            fragment,
        };
        self.specifiers.expand(owner, text, &mut self.unresolved)
    }

    /// Returns the value of a single-valued key.
    pub fn text(&mut self, section: &str, key: &str) -> Option<String> {
        let value = self.unit.settings.last(section, key)?;
        Some(self.expand(value))
    }

    /// Returns the words of a list key.
    pub fn words(&mut self, section: &str, key: &str) -> Vec<String> {
        let mut all = Vec::new();
        for value in self.unit.settings.list(section, key) {
            match words::split(value) {
                Ok(words) => all.extend(words.iter().map(|word| self.expand(word))),
                Err(_) => self.ignored.push(format!("{key}={value}")),
            }
        }
        all
    }

    /// Returns the words that `parse` accepts; the others are recorded as ignored.
    fn parsed<T>(
        &mut self,
        section: &str,
        key: &str,
        mut parse: impl FnMut(&str) -> Option<T>,
    ) -> Vec<T> {
        let mut all = Vec::new();
        for word in self.words(section, key) {
            match parse(&word) {
                Some(value) => all.push(value),
                None => self.ignored.push(format!("{key}={word}")),
            }
        }
        all
    }

    fn names(&mut self, section: &str, key: &str) -> Vec<UnitName> {
        self.parsed(section, key, |word| UnitName::exact(word).ok())
    }

    pub fn marked_paths(&mut self, section: &str, key: &str) -> Vec<MarkedPath> {
        self.parsed(section, key, marked)
    }

    /// Returns `EnvironmentFile=`: unlike in other lists, a value is one path, blanks included (systemd.exec(5)).
    pub fn environment_files(&mut self, section: &str) -> Vec<MarkedPath> {
        let mut files = Vec::new();
        for value in self.unit.settings.list(section, "EnvironmentFile") {
            match marked(&self.expand(value)) {
                Some(file) => files.push(file),
                None => self.ignored.push(format!("EnvironmentFile={value}")),
            }
        }
        files
    }

    pub fn environment(&mut self, section: &str) -> Vec<(String, String)> {
        self.parsed(section, "Environment", |word| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        })
    }

    pub fn commands(&mut self, section: &str) -> Vec<ExecCommand> {
        let mut all = Vec::new();
        for (key, phase) in ExecPhase::KEYS {
            for value in self.unit.settings.list(section, key) {
                match ExecCommand::parse(phase, value, |word| self.expand(word)) {
                    Ok(commands) => all.extend(commands),
                    Err(_) => self.ignored.push(format!("{key}={value}")),
                }
            }
        }
        all
    }

    pub fn directories(&mut self, section: &str, dynamic_user: bool) -> Vec<ManagedDirectory> {
        let mut all = Vec::new();
        for kind in DirectoryKind::ALL {
            let settings = &self.unit.settings;
            let mode = settings.last(section, &format!("{}Mode", kind.key()));
            let mode = mode
                .and_then(|mode| u32::from_str_radix(mode, 8).ok())
                .unwrap_or(0o755);
            let kept = settings
                .last(section, "RuntimeDirectoryPreserve")
                .is_some_and(|value| parse_bool(value) != Some(false));
            // exec_directory_is_private() in systemd: a directory that does not outlive the user need not be
            // hidden from the next one, and configuration belongs to the administrator.
            let private = dynamic_user
                && match kind {
                    DirectoryKind::State | DirectoryKind::Cache | DirectoryKind::Logs => true,
                    DirectoryKind::Runtime => kept,
                    DirectoryKind::Configuration => false,
                };
            let found = self.parsed(section, kind.key(), |word| {
                ManagedDirectory::parse(kind, word, mode, private)
            });
            for dir in found {
                // `a:x a:y` declares one directory with two links.
                match all
                    .iter_mut()
                    .find(|known: &&mut ManagedDirectory| known.path == dir.path)
                {
                    Some(known) => known.links.extend(dir.links),
                    None => all.push(dir),
                }
            }
        }
        all
    }

    pub fn binds(&mut self, section: &str) -> Vec<Bind> {
        let mut all = Vec::new();
        for (key, read_only) in [("BindPaths", false), ("BindReadOnlyPaths", true)] {
            all.extend(self.parsed(section, key, |word| {
                let mut fields = word.split(':');
                let source = marked(fields.next()?)?;
                let target = match fields.next().filter(|target| !target.is_empty()) {
                    Some(target) => marked(target)?.path,
                    None => source.path.clone(),
                };
                Some(Bind {
                    source,
                    target,
                    read_only,
                })
            }));
        }
        all
    }

    pub fn source_path(&mut self) -> Option<PathBuf> {
        Some(marked(&self.text("Unit", "SourcePath")?)?.path)
    }

    pub fn mounts_for(&mut self) -> Vec<PathBuf> {
        let mut paths = self.marked_paths("Unit", "RequiresMountsFor");
        paths.extend(self.marked_paths("Unit", "WantsMountsFor"));
        paths.into_iter().map(|marked| marked.path).collect()
    }

    pub fn credentials(&mut self, section: &str) -> Vec<Credential> {
        let mut all = Vec::new();
        for key in ["LoadCredential", "LoadCredentialEncrypted"] {
            for value in self.unit.settings.list(section, key) {
                let value = self.expand(value);
                let (id, path) = value.split_once(':').unwrap_or((&value, ""));
                all.push(Credential {
                    id: id.to_owned(),
                    path: marked(path).map(|marked| marked.path),
                });
            }
        }
        all
    }

    pub fn conditions(&mut self) -> Vec<Condition> {
        let unit = self.unit;
        let mut all: Vec<Condition> = Vec::new();
        for setting in unit
            .settings
            .iter()
            .filter(|setting| setting.section == "Unit")
        {
            let value = self.expand(&setting.value);
            let Some(condition) = Condition::parse(&setting.key, &value) else {
                continue;
            };
            if setting.value.is_empty() {
                // An empty assignment of any key resets all conditions: systemd.unit(5).
                all.retain(|other| other.severity != condition.severity);
            } else {
                all.push(condition);
            }
        }
        all
    }

    pub fn device_rules(&mut self, section: &str) -> Vec<DeviceRule> {
        let mut all = Vec::new();
        for value in self.unit.settings.list(section, "DeviceAllow") {
            let value = self.expand(value);
            let (device, access) = value
                .split_once(char::is_whitespace)
                .unwrap_or((&value, "rwm"));
            all.push(DeviceRule {
                device: device.to_owned(),
                access: access.trim().to_owned(),
            });
        }
        all
    }

    pub fn capabilities(
        &self,
        section: &str,
        key: &str,
        initial: CapabilitySet,
    ) -> Option<CapabilitySet> {
        let values = self.unit.settings.all(section, key);
        (!values.is_empty()).then(|| CapabilitySet::merge(initial, values.into_iter()))
    }

    pub fn listen(&mut self, section: &str) -> Vec<Listen> {
        let mut all = Vec::new();
        for (key, kind) in ListenKind::KEYS {
            for value in self.unit.settings.list(section, key) {
                let value = self.expand(value);
                let value = match value.strip_prefix("/var/run/") {
                    Some(rest) => format!("/run/{rest}"),
                    None => value,
                };
                all.push(Listen::parse(kind, &value));
            }
        }
        all
    }

    pub fn dependencies(&mut self, section: &str) -> Dependencies {
        let mut dependencies = Dependencies {
            conflicts: self.names("Unit", "Conflicts"),
            sockets: self.names(section, "Sockets"),
            ..Dependencies::default()
        };
        for key in ["Requires", "Requisite", "BindsTo"] {
            dependencies.requires.extend(self.names("Unit", key));
        }
        for key in ["Wants", "Upholds"] {
            dependencies.wants.extend(self.names("Unit", key));
        }
        dependencies
            .requires
            .extend(self.unit.requires_links.iter().cloned());
        dependencies
            .wants
            .extend(self.unit.wants_links.iter().cloned());
        self.triggers(section, &mut dependencies);
        dependencies
    }

    fn triggers(&mut self, section: &str, dependencies: &mut Dependencies) {
        let name = &self.unit.name;
        let (key, by_name) = match name.kind() {
            // With Accept=yes, each connection gets its own instance.
            UnitKind::Socket if self.unit.settings.flag(section, "Accept") == Some(true) => (
                "Service",
                UnitName::exact(&format!("{}@.service", name.prefix())).ok(),
            ),
            UnitKind::Socket => ("Service", Some(name.with_kind(UnitKind::Service))),
            UnitKind::Timer | UnitKind::Path => ("Unit", Some(name.with_kind(UnitKind::Service))),
            UnitKind::Service
            | UnitKind::Device
            | UnitKind::Mount
            | UnitKind::Automount
            | UnitKind::Swap
            | UnitKind::Target
            | UnitKind::Slice
            | UnitKind::Scope => return,
        };
        let written = self.names(section, key).pop();
        dependencies.triggers_named = written.is_some();
        dependencies.triggers = written.or(by_name);
    }

    pub fn install(&mut self) -> Install {
        Install {
            also: self.names("Install", "Also"),
            alias: self.names("Install", "Alias"),
            default_instance: self.text("Install", "DefaultInstance"),
            wanted_by: self.names("Install", "WantedBy"),
            required_by: self.names("Install", "RequiredBy"),
        }
    }
}
