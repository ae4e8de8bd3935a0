//! Which code is a lock's slow path: a binary's symbols go in, the operation that an address is part of comes out.

use crate::decode;
use crate::event::LockOperation;
use crate::target::Binary;
use crate::target::names::plain_path;
use crate::target::sites::slow_path_operation;

/// The functions in which a thread waits for a lock, in a program that may have several versions of each.
pub struct SlowPaths(Vec<SlowPath>);

struct SlowPath {
    start: u64,
    end: u64,
    operation: LockOperation,
}

impl SlowPaths {
    /// Of a mapped binary. One without symbols has none.
    pub fn of(binary: &Binary) -> SlowPaths {
        let (Ok(named), Ok(code)) = (binary.named(), binary.code()) else {
            return SlowPaths(Vec::new());
        };
        let paths = named.symbols().filter_map(|symbol| {
            // Demangling takes a microsecond, and a big binary has some 200,000 symbols.
            let operation = (symbol.mangled.contains("_slow")
                || symbol.mangled.contains("_contended"))
            .then(|| operation(&plain_path(&symbol.demangled())))??;
            let start = binary.module.address(code.file_offset(symbol.vaddr)?)?;
            Some(SlowPath {
                start,
                end: start.checked_add(symbol.size)?,
                operation,
            })
        });
        SlowPaths(paths.collect())
    }

    /// What the function at an address waits for.
    pub fn at(&self, address: u64) -> Option<LockOperation> {
        let path = self
            .0
            .iter()
            .find(|path| (path.start..path.end).contains(&address))?;
        Some(path.operation)
    }
}

/// By the function's name without its hash. A condvar's wait is none of these: who waits there is idle.
fn operation(path: &str) -> Option<LockOperation> {
    let operation = decode::lock_operation(slow_path_operation(path)?).ok()?;
    (operation != LockOperation::Condvar).then_some(operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both families; no unlock, no condvar.
    #[test]
    fn operations_by_name() {
        let named = [
            (
                "std::sys::sync::mutex::futex::Mutex::lock_contended",
                Some(LockOperation::StdMutex),
            ),
            (
                "parking_lot::raw_rwlock::RawRwLock::upgrade_slow",
                Some(LockOperation::RwUpgrade),
            ),
            ("parking_lot::raw_mutex::RawMutex::unlock_slow", None),
            ("parking_lot::condvar::Condvar::wait_until_internal", None),
            ("app::RwLock::write_contended", None),
        ];
        for (path, expected) in named {
            assert_eq!(operation(path), expected, "{path}");
        }
    }
}
