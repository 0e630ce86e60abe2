//! Takes an input apart into the pieces that a target asks for.

/// What is left of an input. Every piece can be taken from every input: at its end there are zeros and empty slices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'d> {
    rest: &'d [u8],
}

impl<'d> Input<'d> {
    pub(crate) fn new(data: &'d [u8]) -> Input<'d> {
        Input { rest: data }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn rest(self) -> &'d [u8] {
        self.rest
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// `len` bytes, or as many as there are.
    pub(crate) fn take(&mut self, len: usize) -> &'d [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// As many bytes as the next byte says.
    pub(crate) fn chunk(&mut self) -> &'d [u8] {
        let len = self.byte();
        self.take(len.into())
    }

    /// As many bytes as the next two bytes say.
    pub(crate) fn long_chunk(&mut self) -> &'d [u8] {
        let len = u16::from_be_bytes([self.byte(), self.byte()]);
        self.take(len.into())
    }
}
