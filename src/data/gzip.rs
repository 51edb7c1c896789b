//! Gzip files as gzip itself reads them: one member after the other, with zeros between or behind them.

use std::io::{BufRead, Error, ErrorKind, Read, Result};

use flate2::bufread::GzDecoder;

/// First bytes of a gzip file (RFC 1952, section 2.3.1).
pub(super) const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What a gzip file decompresses to. The last bytes come only if its checksum is right.
///
/// Backups on tape and some downloads are padded with zeros; `gzip -d` and Python's `gzip` skip them, flate2 does not.
pub(super) struct Gzip<R> {
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Gzip<R> {
    pub(super) fn new(file: R) -> Self {
        Self { member: Some(GzDecoder::new(file)) }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(into)?;
            if read > 0 || into.is_empty() {
                return Ok(read);
            }
            let file = self.member.take().map(GzDecoder::into_inner);
            self.member = file.map(next).transpose()?.flatten();
        }
        Ok(0)
    }
}

/// The member that follows in a file, unless only zeros do.
fn next<R: BufRead>(mut file: R) -> Result<Option<GzDecoder<R>>> {
    loop {
        let bytes = match file.fill_buf() {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        match (bytes.len(), bytes.get(zeros)) {
            (0, _) => return Ok(None),
            (_, None) => file.consume(zeros),
            (_, Some(first)) if *first == MAGIC[0] => {
                file.consume(zeros);
                return Ok(Some(GzDecoder::new(file)));
            }
            _ => return Err(Error::new(ErrorKind::InvalidData, "other data after its end")),
        }
    }
}

/// Whether an error of reading is one of the compressed data, and not of the disk.
pub(super) fn is_corrupt(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof)
}
