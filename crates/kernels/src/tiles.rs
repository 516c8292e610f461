//! AMX tiles: asking the operating system for them, and holding their configuration.
//!
//! The instructions are written in assembly because Rust's intrinsics for them are not stable yet.

use std::arch::asm;
use std::marker::PhantomData;

/// Whether the processor has tiles with bf16 and int8 products, and the system lets this process use them.
pub(crate) fn enable() -> bool {
    has_tiles() && permitted()
}

fn has_tiles() -> bool {
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    let bit = |n: u32| leaf.edx >> n & 1 == 1;
    // Intel's manual, CPUID leaf 7: AMX-BF16, AMX-TILE, AMX-INT8.
    bit(22) && bit(24) && bit(25)
}

/// Linux gives tile state only to processes that ask for it, because it makes every context switch larger.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: `arch_prctl` with these arguments touches no memory of ours; the system call clobbers rcx and r11.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Eight tiles of 16 rows of 64 bytes, configured on this thread while the value lives.
pub(crate) struct Tiles {
    /// The configuration is the thread's: it must not be sent to another.
    thread: PhantomData<*const ()>,
}

#[repr(C, align(64))]
struct Configuration([u8; 64]);

impl Tiles {
    pub(crate) fn configure() -> Tiles {
        assert!(crate::Isa::best() == crate::Isa::Amx, "tiles on a processor without them");
        // Intel's manual: byte 0 the palette, words from byte 16 the bytes of a row, bytes from 48 the rows.
        let mut configuration = Configuration([0; 64]);
        configuration.0[0] = 1;
        for tile in 0..8 {
            configuration.0[16 + 2 * tile] = 64;
            configuration.0[48 + tile] = 16;
        }
        // SAFETY: the processor has tiles, the system permits them (both checked by `enable`), and the operand is
        // a valid configuration of 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) configuration.0.as_ptr(), options(nostack)) };
        Tiles { thread: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: `configure` was run on this thread, so the instruction exists and is permitted.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
