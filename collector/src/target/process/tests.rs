//! Tests of finding and opening processes.

use super::*;
use std::process::{Child, Command, Stdio};

/// A child that is killed when the test ends.
struct Running(Child);

impl Running {
    fn start(program: &str, args: &[&str]) -> Running {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        for _ in 0..100 {
            match command.spawn() {
                // A child that another test is starting still has the copied program open for writing.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                child => return Running(child.expect("the program starts")),
            }
        }
        panic!("{program} stays busy");
    }

    fn pid(&self) -> Pid {
        Pid(self.0.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the child has become the program: between fork and exec it is the test.
fn has_become(child: &Running, name: &str) {
    for _ in 0..200 {
        if text(child.pid().0, "comm").is_ok_and(|comm| comm.trim_end() == name) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{name} did not start");
}

/// A copy of `sleep` of a name that nobody else has, and its folder.
fn own_sleep(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let copy = dir.path().join(name);
    fs::copy("/bin/sleep", &copy).expect("sleep is there");
    (dir, copy)
}

/// A process is found by pid, by name and by file, and they are the same one.
#[test]
fn three_ways_to_the_same_process() {
    let (_dir, path) = own_sleep("holdup-t3ways");
    let child = Running::start(path.to_str().expect("UTF-8"), &["60"]);
    has_become(&child, "holdup-t3ways");
    let by_pid = Process::open(child.pid()).expect("by pid");
    let by_name = Process::find_by_name("holdup-t3ways").expect("by name");
    let by_exe = Process::find_by_exe(&path).expect("by file");
    for process in [&by_pid, &by_name, &by_exe] {
        assert_eq!(process.pid(), child.pid());
        assert_eq!(process.name(), "holdup-t3ways");
        assert_eq!(process.exe_link().path, path);
        assert_eq!(process.start_ticks(), by_pid.start_ticks());
        assert!(process.start_ticks() > 0);
        assert!(!process.binary_was_replaced());
        assert!(!process.in_other_mount_namespace());
        assert!(!process.has_exited());
    }
    assert_eq!(by_pid.status().threads, 1);
}

/// A file that was replaced while it runs is noticed, and the running one stays reachable.
#[test]
fn replaced_binary() {
    let (_dir, path) = own_sleep("holdup-treplace");
    let child = Running::start(path.to_str().expect("UTF-8"), &["60"]);
    has_become(&child, "holdup-treplace");
    let before = fs::metadata(&path).expect("there").ino();
    fs::remove_file(&path).expect("removed");
    fs::copy("/bin/cat", &path).expect("replaced");
    let process = Process::open(child.pid()).expect("by pid");
    assert!(process.exe_link().deleted);
    assert_eq!(process.exe_link().path, path);
    assert!(process.binary_was_replaced());
    assert_eq!(process.exe().metadata().expect("open").ino(), before);
    assert!(matches!(
        Process::find_by_exe(&path),
        Err(TargetError::NoneFound { .. })
    ));
}

/// Two of one name: both are listed with what they were started with.
#[test]
fn several_of_one_name() {
    let (_dir, path) = own_sleep("holdup-tseveral");
    let path = path.to_str().expect("UTF-8");
    let children = [Running::start(path, &["61"]), Running::start(path, &["62"])];
    for child in &children {
        has_become(child, "holdup-tseveral");
    }
    let Err(error @ TargetError::Several(_)) = Process::find_by_name("holdup-tseveral") else {
        panic!("two processes fit");
    };
    let message = error.to_string();
    for (child, argument) in children.iter().zip([" 61", " 62"]) {
        assert!(message.contains(&child.pid().0.to_string()), "{message}");
        assert!(message.contains(argument), "{message}");
    }
}

/// The end of a process is seen through its pidfd, and a zombie is not a target.
#[test]
fn exit_is_seen() {
    let mut child = Running::start("cat", &[]);
    has_become(&child, "cat");
    let process = Process::open(child.pid()).expect("running");
    assert!(!process.wait_for_exit(Duration::from_millis(1)));
    drop(child.0.stdin.take());
    assert!(process.wait_for_exit(Duration::from_secs(10)));
    assert!(matches!(
        Process::open(child.pid()),
        Err(TargetError::Exited(_))
    ));
    assert!(matches!(process.read("maps"), Err(TargetError::Exited(_))));
}

/// What can't be a target is told apart.
#[test]
fn no_target() {
    assert!(matches!(
        Process::open(Pid(u32::MAX)),
        Err(TargetError::NoSuchProcess(_))
    ));
    assert!(matches!(
        Process::find_by_name("nobody is named so"),
        Err(TargetError::NoneFound { .. })
    ));
    assert!(matches!(
        Process::find_by_exe(Path::new("/nowhere/at/all")),
        Err(TargetError::NoSuchFile { .. })
    ));
}

/// Fields of `status`, also when half of it is missing.
#[test]
fn status_fields() {
    let status = Status::parse(
        "Name:\tserver\nState:\tS (sleeping)\nTgid:\t812\nNStgid:\t812\t7\nThreads:\t5\nSeccomp:\t2\n",
    );
    assert_eq!(
        status,
        Status {
            tgid: 812,
            ended: false,
            namespace_pids: vec![812, 7],
            seccomp: Seccomp::Filter,
            threads: 5,
        }
    );
    let empty = Status::parse("State:\nSeccomp:\t9\nTgid");
    assert_eq!(empty.seccomp, Seccomp::Unknown);
    assert_eq!((empty.tgid, empty.ended), (0, false));
    assert!(Status::parse("State:\tZ (zombie)").ended);
}

/// Only 64-bit programs of this machine's kind are targets.
#[test]
fn machines() {
    use std::io::Write as _;
    let check = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("written");
        check_machine(7, &file)
    };
    let own = fs::read("/proc/self/exe").expect("the test binary is readable");
    assert!(check(&own[..64]).is_ok());
    let with = |at: usize, byte: u8| {
        let mut bytes = own[..64].to_vec();
        bytes[at] = byte;
        check(&bytes)
    };
    assert!(matches!(with(4, 1), Err(TargetError::ThirtyTwoBit(7))));
    for foreign in [with(5, 2), with(18, 0xf3), with(0, b'#')] {
        assert!(matches!(
            foreign,
            Err(TargetError::ForeignArchitecture { pid: 7, .. })
        ));
    }
    assert!(matches!(
        check(b"\x7fELF"),
        Err(TargetError::Unreadable { .. })
    ));
}

/// The start time is found behind a name made to confuse.
#[test]
fn start_time_behind_a_hostile_name() {
    let stat = "7 (a) R 1 2) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
    assert_eq!(start_ticks(stat), Some(4242));
    assert_eq!(start_ticks("7 (a"), None);
    assert_eq!(start_ticks(""), None);
}

/// A command line can't move the cursor of the person who reads it.
#[test]
fn command_lines_are_harmless() {
    assert_eq!(
        shown(b"server\0--port\x1b[2J\x001\0"),
        "server --port [2J 1"
    );
    assert_eq!(shown(b""), "");
    assert_eq!(shown(&[b'x'; 500]).chars().count(), COMMAND_LINE_SHOWN + 1);
}
