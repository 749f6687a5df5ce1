//! A program for a Cortex-M, made here: it writes a word that tells it from others, and stops.

use std::io;

use super::gdb::{ENDLESS_LOOP, Gdb};

/// Where the program leaves its word.
const MARK: u32 = 0x2000_0400;
/// Top of its stack.
const STACK: u32 = 0x2000_1000;
/// After the vectors of a Cortex-M0.
const CODE: usize = 0xC0;

/// A program.
#[derive(Debug, Clone)]
pub struct Image {
    word: u32,
    address: u32,
    bytes: Vec<u8>,
}

impl Image {
    /// One that leaves `word`, with at least so many bytes behind its code.
    #[must_use]
    pub fn new(word: u32, padding: usize) -> Self {
        let mut bytes = vec![0; CODE];
        bytes[..4].copy_from_slice(&STACK.to_le_bytes());
        // Reset, and every fault.
        for vector in 1..4 {
            bytes[4 * vector..4 * vector + 4].copy_from_slice(&(CODE as u32 | 1).to_le_bytes());
        }
        // ldr r0, MARK; ldr r1, word; str r1, [r0]; the loop; nop, for the words lie at multiples of four.
        for instruction in [&[0x4802u16, 0x4903, 0x6001], &ENDLESS_LOOP[..], &[0xBF00]].concat() {
            bytes.extend(instruction.to_le_bytes());
        }
        bytes.extend(MARK.to_le_bytes());
        bytes.extend(word.to_le_bytes());
        bytes.extend((0..padding.next_multiple_of(4)).map(|place| (place as u32 ^ word) as u8));
        Self { word, address: 0, bytes }
    }

    /// The same at another address, where it would not run.
    #[must_use]
    pub fn at(self, address: u32) -> Self {
        Self { address, ..self }
    }

    /// What lies in the flash.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// As an ELF file of one segment and one section.
    #[must_use]
    pub fn elf(&self) -> Vec<u8> {
        const HEADER: u32 = 52;
        const SEGMENT: u32 = 32;
        const NAMES: &[u8] = b"\0.text\0.shstrtab\0";
        let (size, start) = (self.bytes.len() as u32, HEADER + SEGMENT);
        let names = start + size;
        let sections = (names + NAMES.len() as u32).next_multiple_of(4);
        let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        let halves = |elf: &mut Vec<u8>, halves: &[u16]| {
            elf.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
        };
        let words = |elf: &mut Vec<u8>, words: &[u32]| {
            elf.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        };
        // An executable for ARM; entry, segments, sections, flags (EABI 5).
        halves(&mut elf, &[2, 40]);
        words(&mut elf, &[1, (self.address + CODE as u32) | 1, HEADER, sections, 0x0500_0000]);
        halves(&mut elf, &[HEADER as u16, SEGMENT as u16, 1, 40, 3, 2]);
        // To be loaded, readable and executable.
        words(&mut elf, &[1, start, self.address, self.address, size, size, 5, 4]);
        elf.extend(&self.bytes);
        elf.extend(NAMES);
        elf.resize(sections as usize, 0);
        words(&mut elf, &[0; 10]);
        words(&mut elf, &[1, 1, 6, self.address, start, size, 0, 0, 4, 0]);
        words(&mut elf, &[7, 3, 0, 0, names, NAMES.len() as u32, 0, 0, 1, 0]);
        elf
    }

    /// Whether its word is where it leaves it.
    ///
    /// # Errors
    /// The system's.
    pub fn has_run(&self, chip: &mut Gdb) -> io::Result<bool> {
        Ok(chip.read(MARK, 4)? == self.word.to_le_bytes())
    }
}
