//! What commands say: their result on standard output, and beside it on standard error what a person or a log is told.
//!
//! A reader that goes (`… | head`) ends neither in a panic, as `println!` and `eprintln!` do: `lib.rs` refuses those.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use crate::failure::{Failure, Outcome};

/// Prints one line of the result. False when nobody reads any more: then there is nothing left to print, and nothing
/// is wrong.
///
/// # Errors
/// A file or a device that takes no more.
pub(crate) fn print(line: impl Display) -> Outcome<bool> {
    print_line(&mut io::stdout(), line)
}

/// As [`print`], to anywhere.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_line(out: &mut impl Write, line: impl Display) -> Outcome<bool> {
    go_on(writeln!(out, "{line}"))
}

/// Whether to go on printing.
///
/// # Errors
/// As [`print`].
pub(crate) fn go_on(written: io::Result<()>) -> Outcome<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot write the answer: {error}"))),
    }
}

/// Tells a person or a log. Where standard error takes nothing, there is nobody to tell it to.
pub fn tell(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Fails each write.
    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_goes_is_no_mistake_and_a_full_disk_is() {
        let mut read = Vec::new();
        assert!(print_line(&mut read, "a line").unwrap());
        assert_eq!(read, b"a line\n");
        assert!(!print_line(&mut Broken(ErrorKind::BrokenPipe), "a line").unwrap());
        let failure = print_line(&mut Broken(ErrorKind::StorageFull), "a line").unwrap_err();
        assert!(
            failure.message.starts_with("cannot write the answer: "),
            "{failure}"
        );
    }
}
