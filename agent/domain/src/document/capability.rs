//! The names of Linux capabilities, however they are written.

/// Every capability that the kernel has, without `CAP_`.
const KNOWN: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// All of them at once, where some are dropped.
pub const ALL_CAPABILITIES: &str = "ALL";

/// `cap_net_admin` as `NET_ADMIN`, so that one capability has one name; `None` where it is no capability.
pub fn capability(text: &str) -> Option<&'static str> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    KNOWN.iter().copied().find(|known| *known == name)
}

/// The rule for a capability that is added.
pub(super) fn added(text: &str) -> Result<String, &'static str> {
    // All at once would be more than anybody could have meant, and other ones with each kernel.
    capability(text).map(str::to_owned).ok_or("the name of one capability, such as NET_ADMIN")
}

/// The rule for a capability that is dropped.
pub(super) fn dropped(text: &str) -> Result<String, &'static str> {
    if text.trim().eq_ignore_ascii_case(ALL_CAPABILITIES) {
        return Ok(ALL_CAPABILITIES.to_owned());
    }
    capability(text).map(str::to_owned).ok_or("the name of a capability, such as CHOWN, or ALL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_has_one_name_however_it_is_written() {
        for text in ["NET_ADMIN", "net_admin", "CAP_NET_ADMIN", " Cap_Net_Admin "] {
            assert_eq!(capability(text), Some("NET_ADMIN"), "{text}");
        }
        for text in ["", "CAP_", "NET", "CAP_CAP_CHOWN", "ALL"] {
            assert_eq!(capability(text), None, "{text}");
        }
        assert!(added("all").is_err());
        assert_eq!(dropped("all").as_deref(), Ok("ALL"));
    }
}
