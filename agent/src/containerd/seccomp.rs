//! The seccomp profile: system calls that programs need, all others answered with `EPERM`.
//!
//! What is left out reaches beyond the container: kernel modules, mounts, namespaces, clocks, swap, reboot, keyrings,
//! bpf, perf, userfaultfd, `io_uring`. A container has no capability for most of these; this is the second wall.

use serde_json::{Value, json};

/// `clone` with one of these makes a namespace: time, mount, cgroup, uts, ipc, user, pid, net.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// Hypervisor sockets leave the network namespace behind.
const AF_VSOCK: u64 = 40;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Execution domains that are harmless: the native one, 32 bits, the uname of Linux 2.6, both, and "tell me".
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The profile, for the architecture this was built for and its 32-bit sibling. A capability that was added opens the
/// calls that it is for.
pub(super) fn profile(added: &[String]) -> Value {
    let architectures: &[&str] = match std::env::consts::ARCH {
        // Not the 64-bit calls with 32-bit pointers (`SCMP_ARCH_X32`), which hardly a kernel and no image has: with them
        // runc takes twice as long to make a container. Such a call ends its process.
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "arm" => &["SCMP_ARCH_ARM"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        // The kernel's own architecture is always part of a filter.
        _ => &[],
    };
    let names: Vec<&str> = ALLOWED.split_whitespace().collect();
    let opened = |(capability, names): &(&str, &'static str)| {
        added.iter().any(|name| name == capability).then_some(*names)
    };
    let opened: Vec<&str> =
        OPENED.iter().filter_map(opened).flat_map(str::split_whitespace).collect();
    let mut calls = vec![
        json!({"names": names, "action": "SCMP_ACT_ALLOW"}),
        json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"}]}),
        json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}),
    ];
    if !opened.contains(&"clone3") {
        // Its flags lie in memory, where no filter sees them. Told that it does not exist, a C library takes `clone`.
        calls.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    if !opened.is_empty() {
        calls.push(json!({"names": opened, "action": "SCMP_ACT_ALLOW"}));
    }
    calls.extend(PERSONALITIES.map(|persona| {
        json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": persona, "op": "SCMP_CMP_EQ"}]})
    }));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures,
        "syscalls": calls,
    })
}

/// Calls that are of use only with a capability that containers do not have unless they ask for it.
const OPENED: [(&str, &str); 13] = [
    ("BPF", "bpf"),
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    ("PERFMON", "perf_event_open"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount \
         open_tree perf_event_open pivot_root quotactl quotactl_fd setdomainname sethostname setns umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_MODULE", "delete_module finit_module init_module"),
    (
        "SYS_NICE",
        "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    ),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "clock_adjtime clock_adjtime64 clock_settime clock_settime64 settimeofday stime"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYSLOG", "syslog"),
];

/// Names that an architecture or an older library does not know are skipped by runc.
const ALLOWED: &str = "
accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg
send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair

access chdir chmod chown chown32 chroot close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
fadvise64 fadvise64_64 arm_fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl
fcntl64 fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd
getdents getdents64 ioctl lchown lchown32 link linkat lseek _llseek lstat lstat64 mkdir mkdirat mknod mknodat
newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink
readlinkat readv rename renameat renameat2 rmdir sendfile sendfile64 splice stat stat64 statfs statfs64 statx symlink
symlinkat sync sync_file_range sync_file_range2 arm_sync_file_range syncfs tee truncate truncate64 umask unlink
unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev

fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr lsetxattr
removexattr setxattr getxattrat listxattrat removexattrat setxattrat

fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch name_to_handle_at

epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
_newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 timerfd_create timerfd_gettime
timerfd_gettime64 timerfd_settime timerfd_settime64

io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit

brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_madvise
process_mrelease remap_file_pages

capget capset execve execveat exit exit_group fork getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups
getgroups32 getpgid getpgrp getpid getppid getresgid getresgid32 getresuid getresuid32 getsid gettid getuid getuid32
pidfd_open pidfd_send_signal prctl arch_prctl modify_ldt process_vm_readv process_vm_writev ptrace setfsgid
setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setregid setregid32 setresgid
setresgid32 setresuid setresuid32 setreuid setreuid32 setsid setuid setuid32 set_thread_area get_thread_area
set_tid_address set_tls vfork wait4 waitid waitpid riscv_flush_icache riscv_hwprobe breakpoint cacheflush

futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake get_robust_list set_robust_list restart_syscall
rseq sched_yield uretprobe

getcpu getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_getaffinity sched_getattr
sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler setpriority setrlimit
ugetrlimit

alarm kill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn tgkill tkill

clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer
gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64
timer_settime timer_settime64 times adjtimex

ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink
msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget

getrandom seccomp sysinfo uname landlock_add_rule landlock_create_ruleset landlock_restrict_self
";

#[cfg(test)]
mod tests {
    use super::*;

    /// What a profile does with a call, rule by rule, conditions left aside.
    fn of(added: &[&str], call: &str) -> Vec<String> {
        let added: Vec<String> = added.iter().map(|name| (*name).to_owned()).collect();
        let profile = profile(&added);
        let rules = profile["syscalls"].as_array().unwrap().iter();
        let about =
            |rule: &&Value| rule["names"].as_array().unwrap().iter().any(|name| name == call);
        rules.filter(about).map(|rule| rule["action"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_capability_opens_the_calls_that_it_is_for_and_no_others() {
        assert_eq!(of(&[], "clock_settime"), [""; 0]);
        assert_eq!(of(&["SYS_TIME"], "clock_settime"), ["SCMP_ACT_ALLOW"]);
        assert_eq!(of(&["SYS_TIME", "NET_ADMIN"], "mount"), [""; 0]);
        assert_eq!(of(&[], "clone3"), ["SCMP_ACT_ERRNO"]);
        // Two answers for one call would be refused by runc.
        assert_eq!(of(&["SYS_ADMIN"], "clone3"), ["SCMP_ACT_ALLOW"]);
    }
}
