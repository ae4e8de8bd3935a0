//! An iterator over the threads of the target. What enters: which of the loaded programs, and the process. What leaves,
//! each time it is asked: what the program says of each thread.
//!
//! An iterator's program runs when user space reads, and at no other time: the target does not notice.

use std::fs::File;
use std::io::{self, Read as _};
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use aya::programs::Iter;
use aya_obj::generated::{bpf_attach_type::BPF_TRACE_ITER, bpf_attr, bpf_cmd};
use zerocopy::FromBytes;

use super::load::program_of;
use super::syscall::bpf;
use super::{ProbeError, Probes, kernel_types};
use crate::target::{Host, KernelVersion};

/// Whether an iterator can be told to pass the threads of one process.
pub(super) fn has_iterator_of_process() -> bool {
    Host::look().kernel >= Some(KernelVersion::ITERATOR_OF_PROCESS)
}

/// An iterator whose program says a `T` of each thread, or nothing.
pub(super) struct ThreadIterator<T> {
    link: OwnedFd,
    says: PhantomData<T>,
}

impl Probes {
    /// Gets ready to look, for `purpose`, at the threads of the process behind `pidfd`, which is the target.
    pub(super) fn threads_of<T>(
        &mut self,
        name: &'static str,
        purpose: &'static str,
        pidfd: BorrowedFd<'_>,
    ) -> Result<ThreadIterator<T>, ProbeError> {
        let failed =
            |error: &(dyn std::error::Error + 'static)| ProbeError::from_aya(purpose, error);
        if kernel_types::task_offsets().is_none() {
            return Err(ProbeError::Kernel {
                attempted: "tell where it keeps what is known of a thread".to_owned(),
                source: io::ErrorKind::NotFound.into(),
            });
        }
        let began = Instant::now();
        let program: &mut Iter = program_of(&mut self.ebpf, name)?;
        let types = aya::Btf::from_sys_fs().map_err(|error| failed(&error))?;
        program
            .load("task", &types)
            .map_err(|error| failed(&error))?;
        let program = program.fd().map_err(|error| failed(&error))?;
        let link = attach(program.as_fd(), has_iterator_of_process().then_some(pidfd))
            .map_err(|error| ProbeError::from_io(purpose, error))?;
        tracing::debug!(program = name, took = ?began.elapsed(), "loaded and attached");
        Ok(ThreadIterator {
            link,
            says: PhantomData,
        })
    }
}

impl<T: FromBytes> ThreadIterator<T> {
    /// What it says now, of so many threads at most.
    pub(super) fn read(&self, most: usize) -> io::Result<Vec<T>> {
        // SAFETY: every member of the union is plain integers, for which zero is valid.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.iter_create.link_fd = self.link.as_raw_fd() as u32;
        let iterator = File::from(bpf(bpf_cmd::BPF_ITER_CREATE, &attr)?);
        let mut bytes = Vec::new();
        iterator
            .take((most * size_of::<T>()) as u64)
            .read_to_end(&mut bytes)?;
        let whole = bytes.chunks_exact(size_of::<T>());
        Ok(whole
            .filter_map(|bytes| T::read_from_bytes(bytes).ok())
            .collect())
    }
}

/// `union bpf_iter_link_info` of include/uapi/linux/bpf.h, its member `task`; as long as the longest member.
#[repr(C)]
struct TaskLinkInfo {
    tid: u32,
    pid: u32,
    pid_fd: u32,
    rest: u32,
}

fn attach(program: BorrowedFd<'_>, process: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let info = process.map(|pidfd| TaskLinkInfo {
        tid: 0,
        pid: 0,
        pid_fd: pidfd.as_raw_fd() as u32,
        rest: 0,
    });
    // SAFETY: as in `read`.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: as in `read`; `info` lives until the call returns.
    unsafe {
        let link = &mut attr.link_create;
        link.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
        link.attach_type = BPF_TRACE_ITER as u32;
        if let Some(info) = &info {
            let of_process = &mut link.__bindgen_anon_3.__bindgen_anon_1;
            of_process.iter_info = std::ptr::from_ref(info) as u64;
            of_process.iter_info_len = size_of::<TaskLinkInfo>() as u32;
        }
    }
    bpf(bpf_cmd::BPF_LINK_CREATE, &attr)
}
