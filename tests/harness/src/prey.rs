//! Paths of the escape suite's targets, where its attacker looks for them.

/// Directory in the host's `/usr`, which is shared with a machine over 9p.
pub const IN_USR: &str = "/usr/local/share/t-escape";

/// Mount point in a machine of another directory of the host, read-only over 9p.
pub const SHARED: &str = "/mnt/t-escape";

/// Name of files beside shared directories that contain the marker.
pub const BESIDE: &str = "t-escape-beside";

/// Prefix of the names of files left in a tree.
pub const LEFT: &str = "t-left-";

/// File from which the false agent reads the name of its lie.
pub const LIE: &str = "/srv/t-lie";

/// File that the false agent makes once it has taken the agent's place.
pub const LIAR: &str = "/srv/t-liar";
