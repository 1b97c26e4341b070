//! Profiles of system calls in JSON: `linux.seccomp` of the OCI's runtime specification, and the form with `includes`
//! and `excludes` that podman and Docker keep theirs in.

use std::fs;
use std::path::Path;

use guest_init::seccomp::{Action, Comparison, Condition, Policy, Rule};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::sys::arch::Arch;

/// A profile, without the fields that do not change a filter: comments, flags of `seccomp(2)`, architectures (those of the host
/// are filtered).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Cases,
    #[serde(default)]
    excludes: Cases,
}

/// Condition on the sandboxes or hosts that an entry is for.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cases {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
}

impl Cases {
    /// Returns whether the entry depends on a capability.
    fn names_capability(&self) -> bool {
        self.caps.as_ref().is_some_and(|caps| !caps.is_empty())
    }

    /// Returns whether the host is of a named architecture; `None` if none is named.
    fn names_arch(&self, arch: Arch) -> Option<bool> {
        let named = self.arches.as_ref().filter(|named| !named.is_empty())?;
        Some(
            named
                .iter()
                .any(|name| of_go(arch).contains(&name.as_str())),
        )
    }
}

/// Returns the names of an architecture, and of the programs that it runs, in profiles: those of the language Go.
fn of_go(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86_64 => &["amd64", "x86", "x32"],
        Arch::I686 => &["x86"],
        Arch::Aarch64 => &["arm64", "arm"],
        Arch::Armv7l => &["arm"],
        Arch::Ppc64le => &["ppc64le"],
        Arch::S390x => &["s390x", "s390"],
        Arch::Riscv64 => &["riscv64"],
        Arch::Loongarch64 => &["loongarch64", "loong64"],
        Arch::Other(_) => &[],
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Reads the profile at `path`, for a host of the architecture `arch`.
pub fn read(path: &Path, arch: Arch) -> Result<Policy> {
    let text = fs::read_to_string(path).map_err(Error::io("reading the seccomp profile", path))?;
    parse(&text, arch).map_err(Error::config(path))
}

fn parse(text: &str, arch: Arch) -> Result<Policy> {
    let profile: Profile =
        serde_json::from_str(text).map_err(|error| Error::refused(error.to_string()))?;
    let mut rules = Vec::new();
    for entry in &profile.syscalls {
        if entry.includes.names_arch(arch) == Some(false)
            || entry.excludes.names_arch(arch) == Some(true)
        {
            continue;
        }
        let action = action(&entry.action, entry.errno_ret.or(profile.default_errno_ret))?;
        // Capabilities are chosen elsewhere: a call that is allowed with some capability is allowed, and one that is refused
        // without it is not refused.
        let is_conditional = entry.includes.names_capability() || entry.excludes.names_capability();
        if is_conditional && action != Action::Allow {
            continue;
        }
        let arguments = entry.args.as_deref().unwrap_or_default();
        let conditions: Vec<Condition> = arguments.iter().map(condition).collect::<Result<_>>()?;
        for name in entry.names.iter().chain(&entry.name) {
            let mut conditions = conditions.clone();
            if arch == Arch::S390x && name == "clone" {
                // Profiles count the arguments as the host does, and rules as most do.
                for condition in conditions.iter_mut().filter(|it| it.argument < 2) {
                    condition.argument ^= 1;
                }
            }
            rules.push(Rule {
                syscall: name.clone(),
                conditions,
                action,
            });
        }
    }
    Ok(Policy {
        rules,
        otherwise: action(&profile.default_action, profile.default_errno_ret)?,
    })
}

fn action(name: &str, number: Option<u16>) -> Result<Action> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        // The specification's default is EPERM.
        "SCMP_ACT_ERRNO" => Action::Errno(number.unwrap_or(1)),
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        other => {
            return Err(Error::refused(format!(
                "the action '{other}' cannot be done: use SCMP_ACT_ALLOW, _ERRNO, _LOG, _TRAP or _KILL_PROCESS"
            )));
        }
    })
}

fn condition(argument: &Argument) -> Result<Condition> {
    let (comparison, negated) = match argument.op.as_str() {
        "SCMP_CMP_EQ" | "SCMP_CMP_MASKED_EQ" => (Comparison::Equal, false),
        "SCMP_CMP_NE" => (Comparison::Equal, true),
        "SCMP_CMP_GT" => (Comparison::Greater, false),
        "SCMP_CMP_GE" => (Comparison::GreaterEqual, false),
        "SCMP_CMP_LT" => (Comparison::GreaterEqual, true),
        "SCMP_CMP_LE" => (Comparison::Greater, true),
        other => {
            return Err(Error::refused(format!(
                "'{other}' is no comparison of seccomp"
            )));
        }
    };
    if argument.index > 5 {
        return Err(Error::refused(format!(
            "system calls have no argument {}",
            argument.index
        )));
    }
    let (mask, value) = match argument.op.as_str() {
        "SCMP_CMP_MASKED_EQ" => (argument.value, argument.value_two),
        _ => (u64::MAX, argument.value),
    };
    Ok(Condition {
        argument: argument.index,
        mask,
        comparison,
        negated,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read() {
        let policy = parse(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [
                  {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": ""},
                  {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_BPF"]}},
                  {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                   "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
            Arch::X86_64,
        )
        .unwrap();
        assert_eq!(policy.otherwise, Action::Errno(38));
        let names: Vec<&str> = policy
            .rules
            .iter()
            .map(|rule| rule.syscall.as_str())
            .collect();
        assert_eq!(names, ["read", "write", "clone"]);
        let condition = policy.rules[2].conditions[0];
        assert_eq!((condition.mask, condition.value), (2_114_060_288, 0));
    }

    #[test]
    fn entries_for_other_architectures_are_left_out() {
        // As in the profile of podman, whose second entry would let the flags of x86 pass.
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["s390", "s390x"]},
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390", "s390x"]},
             "args": [{"index": 1, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#;
        for arch in [Arch::X86_64, Arch::Aarch64, Arch::S390x] {
            let policy = parse(text, arch).unwrap();
            let arguments: Vec<u8> = policy
                .rules
                .iter()
                .map(|rule| rule.conditions[0].argument)
                .collect();
            assert_eq!(arguments, [0], "{arch}");
        }
    }

    #[test]
    fn an_invalid_profile_is_refused_with_its_error() {
        for (text, word) in [
            ("{", "EOF"),
            ("{}", "defaultAction"),
            (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_KILL",
                    "args": [{"index": 9, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
                "argument 9",
            ),
        ] {
            let error = parse(text, Arch::X86_64).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
