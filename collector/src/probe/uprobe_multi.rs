//! One link for many uprobes (kernel 6.6 and newer). What enters: a program's name, a file and offsets.
//! What leaves: a link that detaches when dropped.
//!
//! Attached one by one through perf events, each uprobe takes 108 ms to detach; 126 of them behind one
//! link take 35 ms altogether. aya 0.14 can't set the attach type that such a program must be loaded
//! with, so the programs are relocated with aya-obj against the maps that aya made, and loaded here.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::{
    bpf_attach_type::BPF_TRACE_UPROBE_MULTI, bpf_attr, bpf_cmd, bpf_prog_type::BPF_PROG_TYPE_KPROBE,
};

use super::syscall::bpf;
use super::{ProbeError, UprobePoint, error::tail};

/// `BPF_F_UPROBE_MULTI_RETURN` of include/uapi/linux/bpf.h: the probes fire at the return.
const RETURN: u32 = 1;

/// Bytes of verifier log that are asked for when a program was rejected.
const LOG_BYTES: usize = 1 << 20;

/// Programs relocated against aya's maps, ready to be loaded.
pub struct MultiPrograms {
    object: aya_obj::Object,
    /// The programs' types, without which the kernel takes no callbacks (`bpf_loop`).
    btf: OwnedFd,
}

impl MultiPrograms {
    /// Parses `object` and relocates it against the maps of an `Ebpf` that aya made from the same bytes.
    pub fn relocate(object: &[u8], map_fds: &HashMap<String, RawFd>) -> Result<Self, ProbeError> {
        let unusable = |error: &dyn std::fmt::Display| ProbeError::Object(error.to_string());
        let mut object = aya_obj::Object::parse(object).map_err(|e| unusable(&e))?;
        let maps = std::mem::take(&mut object.maps);
        let features = aya::features().btf().ok_or_else(|| ProbeError::Kernel {
            attempted: "load types of BPF programs (BTF)".to_owned(),
            source: io::Error::from_raw_os_error(libc::EOPNOTSUPP),
        })?;
        let btf = object
            .fixup_and_sanitize_btf(features)
            .map_err(|e| unusable(&e))?
            .ok_or_else(|| ProbeError::Object("has no types (BTF)".to_owned()))?
            .to_bytes();
        let btf = load_btf(&btf)
            .map_err(|error| ProbeError::from_io("load types of BPF programs (BTF)", error))?;
        let text_sections: HashSet<usize> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        let with_fds = maps
            .iter()
            .filter_map(|(name, map)| Some((name.as_str(), *map_fds.get(name)?, map)));
        object
            .relocate_maps(with_fds, &text_sections)
            .map_err(|e| unusable(&e))?;
        object
            .relocate_calls(&text_sections)
            .map_err(|e| unusable(&e))?;
        Ok(MultiPrograms { object, btf })
    }

    /// Loads one of them.
    pub fn load(&self, name: &str) -> Result<OwnedFd, ProbeError> {
        let program = self
            .object
            .programs
            .get(name)
            .ok_or_else(|| ProbeError::Object(format!("has no program {name}")))?;
        let function = self
            .object
            .functions
            .get(&program.function_key())
            .ok_or_else(|| ProbeError::Object(format!("has no code for {name}")))?;
        let func_info = function.func_info.func_info_bytes();
        let code = Code {
            instructions: &function.instructions,
            license: &program.license,
            name,
            types: Some(Types {
                btf: self.btf.as_fd(),
                func_info: &func_info,
                func_info_count: function.func_info.len() as u32,
                func_info_size: function.func_info_rec_size as u32,
            }),
        };
        let mut log = Vec::new();
        match load(&code, &mut log) {
            Ok(fd) => Ok(fd),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM)) => Err(
                ProbeError::from_io(format!("load the program {name}"), error),
            ),
            Err(_) => {
                // Once more for its reasons. The log is not asked for the first time: a buffer that is
                // too small makes the load of a good program fail.
                log.resize(LOG_BYTES, 0);
                match load(&code, &mut log) {
                    Ok(fd) => Ok(fd),
                    Err(error) => {
                        let text = CStr::from_bytes_until_nul(&log)
                            .map(|text| text.to_string_lossy().into_owned())
                            .unwrap_or_default();
                        Err(ProbeError::Verifier {
                            program: name.to_owned(),
                            log: format!("{error}\n{}", tail(&text)),
                        })
                    }
                }
            }
        }
    }
}

/// A program for the kernel.
struct Code<'a> {
    instructions: &'a [aya_obj::generated::bpf_insn],
    license: &'a CStr,
    name: &'a str,
    types: Option<Types<'a>>,
}

/// Its functions' types.
struct Types<'a> {
    btf: BorrowedFd<'a>,
    func_info: &'a [u8],
    func_info_count: u32,
    func_info_size: u32,
}

fn load(code: &Code<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    // SAFETY: every member of the union is plain integers, for which zero is valid.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: writing integers to a member of a zeroed union.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = BPF_PROG_TYPE_KPROBE as u32;
    load.expected_attach_type = BPF_TRACE_UPROBE_MULTI as u32;
    load.insns = code.instructions.as_ptr() as u64;
    load.insn_cnt = code.instructions.len() as u32;
    load.license = code.license.as_ptr() as u64;
    if let Some(types) = &code.types {
        load.prog_btf_fd = types.btf.as_raw_fd() as u32;
        load.func_info = types.func_info.as_ptr() as u64;
        load.func_info_cnt = types.func_info_count;
        load.func_info_rec_size = types.func_info_size;
    }
    for (to, from) in load.prog_name.iter_mut().take(15).zip(code.name.bytes()) {
        *to = from as std::ffi::c_char;
    }
    if !log.is_empty() {
        load.log_level = 1;
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = log.len() as u32;
    }
    bpf(bpf_cmd::BPF_PROG_LOAD, &attr)
}

fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: as in `load`.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: as in `load`.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = btf.as_ptr() as u64;
    load.btf_size = btf.len() as u32;
    bpf(bpf_cmd::BPF_BTF_LOAD, &attr)
}

/// Attaches `program` to `points` of `file` in the process `pid`.
pub fn attach(
    program: BorrowedFd<'_>,
    file: &Path,
    points: &[UprobePoint],
    pid: u32,
    at_return: bool,
) -> io::Result<OwnedFd> {
    let path = CString::new(file.as_os_str().as_bytes())?;
    let offsets: Vec<u64> = points.iter().map(|point| point.file_offset).collect();
    let cookies: Vec<u64> = points.iter().map(|point| point.cookie).collect();
    // SAFETY: as in `load`.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: as in `load`.
    unsafe {
        let link = &mut attr.link_create;
        link.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
        link.attach_type = BPF_TRACE_UPROBE_MULTI as u32;
        let multi = &mut link.__bindgen_anon_3.uprobe_multi;
        multi.path = path.as_ptr() as u64;
        multi.offsets = offsets.as_ptr() as u64;
        multi.cookies = cookies.as_ptr() as u64;
        multi.cnt = points.len() as u32;
        multi.flags = if at_return { RETURN } else { 0 };
        multi.pid = pid;
    }
    bpf(bpf_cmd::BPF_LINK_CREATE, &attr)
}

/// Whether the kernel has the attach type, found by trying to load the smallest program with it.
/// An error is one of privilege, which says nothing about the kernel.
pub fn is_supported() -> io::Result<bool> {
    use aya_obj::generated::bpf_insn;
    // mov64 r0, 0; exit
    let mut mov: bpf_insn = bpf_insn {
        code: 0xb7,
        _bitfield_align_1: [],
        _bitfield_1: Default::default(),
        off: 0,
        imm: 0,
    };
    mov.set_dst_reg(0);
    let exit = bpf_insn { code: 0x95, ..mov };
    let code = Code {
        instructions: &[mov, exit],
        license: c"GPL",
        name: "holdup_feature",
        types: None,
    };
    let program = match load(&code, &mut []) {
        Ok(program) => program,
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM)) => return Err(error),
        Err(_) => return Ok(false),
    };
    // Kernels before 6.6 take any attach type at load time, and fail here with EINVAL, because they don't
    // know it; a newer one gets as far as the path, where a folder in place of a file is EBADF.
    let point = UprobePoint {
        file_offset: 0,
        cookie: 0,
    };
    let root = Path::new("/");
    let refusal = |pid: u32| {
        attach(program.as_fd(), root, &[point], pid, false)
            .err()
            .and_then(|error| error.raw_os_error())
    };
    // The first kernels with it filtered by thread where they should by process, so that only the main
    // thread was seen. The ones that were mended since also refuse this pid, before they look at the path
    // (libbpf tells them apart in the same way, probe_uprobe_multi_link of its features.c).
    const NO_PID: u32 = u32::MAX;
    Ok(refusal(0) == Some(libc::EBADF) && refusal(NO_PID) == Some(libc::EINVAL))
}
