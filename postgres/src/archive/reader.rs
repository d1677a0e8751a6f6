//! The archive's primitives: bytes, signed integers and counted strings.

/// A sign byte and four bytes, little-endian: the only width PostgreSQL has written on any machine since 7.1.
pub(crate) const INT_BYTES: usize = 5;

/// The longest string taken from a table of contents. The server cannot make one value larger than 1 GiB; a
/// definition of this size would be a program generator's accident.
const MAX_STRING: usize = 256 << 20;

/// Why a field could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The field goes on after the bytes at hand.
    Short,
    /// No further byte can make it right.
    Bad(&'static str),
    /// It claims more than will ever be held.
    Long { what: &'static str, limit: u64 },
}

/// Reads an integer from the first [`INT_BYTES`] bytes; `None` if there are fewer.
///
/// Any bytes are an integer: what values make sense is for the caller to say.
#[inline]
pub(crate) fn read_int(bytes: &[u8]) -> Option<i64> {
    let (sign, digits) = bytes.first_chunk::<INT_BYTES>()?.split_first()?;
    let magnitude = i64::from(u32::from_le_bytes(digits.try_into().ok()?));
    Some(if *sign == 0 { magnitude } else { -magnitude })
}

/// Fields one after another in a slice.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let end = self.position.checked_add(count).ok_or(Stop::Short)?;
        let taken = self.bytes.get(self.position..end).ok_or(Stop::Short)?;
        self.position = end;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Stop> {
        self.take(1).map(|taken| taken[0])
    }

    pub(crate) fn int(&mut self) -> Result<i32, Stop> {
        let value = read_int(self.take(INT_BYTES)?).ok_or(Stop::Short)?;
        i32::try_from(value).map_err(|_| Stop::Bad("an integer is out of range"))
    }

    /// A counted string; a negative length stands for NULL.
    pub(crate) fn string(&mut self) -> Result<Option<String>, Stop> {
        let Ok(length) = usize::try_from(self.int()?) else { return Ok(None) };
        if length > MAX_STRING {
            return Err(Stop::Long { what: "a string", limit: MAX_STRING as u64 });
        }
        Ok(Some(String::from_utf8_lossy(self.take(length)?).into_owned()))
    }

    /// A number written as a counted string, as the object ids are.
    pub(crate) fn number<T: std::str::FromStr>(&mut self, what: &'static str) -> Result<T, Stop> {
        self.string()?.and_then(|text| text.parse().ok()).ok_or(Stop::Bad(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_carry_their_sign_in_front() {
        assert_eq!(read_int(&[0, 1, 2, 0, 0]), Some(513));
        assert_eq!(read_int(&[1, 1, 0, 0, 0]), Some(-1));
        assert_eq!(read_int(&[1, 0, 0, 0, 0x80]), Some(i64::from(i32::MIN)));
        assert_eq!(read_int(&[0, 1, 2, 0]), None);
    }

    #[test]
    fn a_string_that_goes_on_is_short_and_one_too_long_is_refused() {
        assert_eq!(Fields::new(&[0, 3, 0, 0, 0, b'a']).string(), Err(Stop::Short));
        assert_eq!(Fields::new(&[1, 1, 0, 0, 0]).string(), Ok(None));
        assert!(matches!(Fields::new(&[0, 0, 0, 0, 0x7f]).string(), Err(Stop::Long { .. })));
    }
}
