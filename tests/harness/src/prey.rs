//! Where the escape suite has what is to be reached, and its attacker looks for it.

/// A directory of the host's `/usr`, which a machine has over 9p.
pub const IN_USR: &str = "/usr/local/share/t-escape";

/// Where a machine has another directory of the host over 9p, read-only.
pub const SHARED: &str = "/mnt/t-escape";

/// The name of files that lie beside what is shared, with the marker in them.
pub const BESIDE: &str = "t-escape-beside";

/// What the names begin with of what is left in a tree.
pub const LEFT: &str = "t-left-";

/// Where the attacker that answers the host in a machine's place reads what it is to say.
pub const LIE: &str = "/srv/t-lie";

/// What it makes when it has taken that place.
pub const LIAR: &str = "/srv/t-liar";
