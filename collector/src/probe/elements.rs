//! Maps inside of maps: one map of one value for each, put in and taken out. aya 0.14 can't put in several at
//! once, and takes none out of an array.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya::maps::MapData;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_type::BPF_MAP_TYPE_ARRAY};

use super::syscall::{bpf, call};

/// An array with one value.
pub fn single(name: &str, value: &[u8]) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    let mut attr = zeroed();
    // SAFETY: writing integers to a member of a zeroed union.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = BPF_MAP_TYPE_ARRAY as u32;
    create.key_size = size_of::<u32>() as u32;
    create.value_size = value.len() as u32;
    create.max_entries = 1;
    for (to, from) in create.map_name.iter_mut().take(15).zip(name.to_bytes()) {
        *to = *from as std::ffi::c_char;
    }
    let map = bpf(bpf_cmd::BPF_MAP_CREATE, &attr)?;

    let mut attr = zeroed();
    let key = 0_u32;
    // SAFETY: as above.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd() as u32;
    element.key = std::ptr::from_ref(&key) as u64;
    element.__bindgen_anon_1.value = value.as_ptr() as u64;
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &attr)?;
    Ok(map)
}

/// Puts maps into a map of maps with 32-bit keys, in place of what was there.
pub fn set_all(map: &MapData, elements: &[(u32, OwnedFd)]) -> io::Result<()> {
    if elements.is_empty() {
        return Ok(());
    }
    let keys: Vec<u32> = elements.iter().map(|(key, _)| *key).collect();
    let values: Vec<i32> = elements.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    let mut attr = zeroed();
    // SAFETY: as in `single`.
    let batch = unsafe { &mut attr.batch };
    batch.keys = keys.as_ptr() as u64;
    batch.values = values.as_ptr() as u64;
    batch.count = keys.len() as u32;
    batch.map_fd = map.fd().as_fd().as_raw_fd() as u32;
    call(bpf_cmd::BPF_MAP_UPDATE_BATCH, &attr).map(|_| ())
}

/// Puts one in.
pub fn set(map: &MapData, key: u32, value: &OwnedFd) -> io::Result<()> {
    let value = value.as_raw_fd();
    let mut attr = zeroed();
    // SAFETY: as in `single`.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.fd().as_fd().as_raw_fd() as u32;
    element.key = std::ptr::from_ref(&key) as u64;
    element.__bindgen_anon_1.value = std::ptr::from_ref(&value) as u64;
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &attr).map(|_| ())
}

/// Takes one out; the kernel frees it when no program has it any more.
pub fn delete(map: &MapData, key: u32) -> io::Result<()> {
    let mut attr = zeroed();
    // SAFETY: as in `single`.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.fd().as_fd().as_raw_fd() as u32;
    element.key = std::ptr::from_ref(&key) as u64;
    call(bpf_cmd::BPF_MAP_DELETE_ELEM, &attr).map(|_| ())
}

fn zeroed() -> bpf_attr {
    // SAFETY: every member of the union is plain integers, for which zero is valid.
    unsafe { std::mem::zeroed() }
}
