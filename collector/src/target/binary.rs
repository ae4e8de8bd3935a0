//! A module goes in; its image comes out, together with where it is mapped.
#![forbid(unsafe_code)]

use std::ops::Deref;

use super::debuginfo::DebugSearch;
use super::elf::ElfError;
use super::image::Image;
use super::maps::Module;

/// A mapped binary.
#[derive(Debug)]
pub struct Binary {
    /// The module.
    pub module: Module,
    /// Its file.
    pub image: Image,
}

impl Binary {
    /// Opens the file of a module, and its debug file if it is stripped and one is found.
    pub fn open(module: &Module, search: &DebugSearch) -> Result<Binary, ElfError> {
        let file = module.open().map_err(ElfError::Open)?;
        let mut image = Image::new(&file, &module.path, search)?;
        // Every library would be a file to wait for, and the main program is nearly always the one.
        if module.is_main {
            image.complete(search);
        }
        Ok(Binary {
            module: module.clone(),
            image,
        })
    }
}

impl Deref for Binary {
    type Target = Image;

    fn deref(&self) -> &Image {
        &self.image
    }
}
