//! Storage by index in pages that never move, so that growth neither copies what is there nor
//! doubles the memory of a full shard.

const PAGE: usize = 256;

/// Values at indices that somebody else chose (the kernel's file table slots).
#[derive(Debug)]
pub struct PagedMap<T> {
    pages: Vec<Option<Box<[Option<T>]>>>,
    len: usize,
}

impl<T> PagedMap<T> {
    /// An empty map; no page exists before the first insert into it.
    pub fn new() -> Self {
        Self {
            pages: Vec::new(),
            len: 0,
        }
    }

    /// Puts `value` at `index`, which must be vacant.
    pub fn insert(&mut self, index: u32, value: T) -> &mut T {
        let (page, cell) = (index as usize / PAGE, index as usize % PAGE);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(|| (0..PAGE).map(|_| None).collect());
        assert!(page[cell].is_none(), "slot {index} is in use");
        self.len += 1;
        page[cell].insert(value)
    }

    /// Takes the value at `index` out.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.cell_mut(index)?.take();
        self.len -= usize::from(value.is_some());
        value
    }

    /// The value at `index`.
    pub fn get(&self, index: u32) -> Option<&T> {
        let page = self.pages.get(index as usize / PAGE)?.as_ref()?;
        page[index as usize % PAGE].as_ref()
    }

    /// The value at `index`, to change.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.cell_mut(index)?.as_mut()
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// An index that is above every value's.
    pub fn end(&self) -> u32 {
        (self.pages.len() * PAGE) as u32
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All values with their indices, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let cells = self
            .pages
            .iter()
            .enumerate()
            .filter_map(|(p, page)| Some((p, page.as_ref()?)));
        cells.flat_map(|(p, page)| {
            let at = move |(c, cell): (usize, &'_ Option<T>)| {
                cell.is_some().then_some((p * PAGE + c) as u32)
            };
            page.iter()
                .enumerate()
                .filter_map(move |(c, cell)| Some((at((c, cell))?, cell.as_ref()?)))
        })
    }

    fn cell_mut(&mut self, index: u32) -> Option<&mut Option<T>> {
        let page = self.pages.get_mut(index as usize / PAGE)?.as_mut()?;
        Some(&mut page[index as usize % PAGE])
    }
}

impl<T> Default for PagedMap<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Values at indices that the slab chooses, each with a generation that makes a stale index miss.
#[derive(Debug)]
pub struct Slab<T> {
    cells: PagedMap<T>,
    generations: Vec<u32>,
    vacant: Vec<u32>,
}

impl<T> Slab<T> {
    /// An empty slab.
    pub fn new() -> Self {
        Self {
            cells: PagedMap::new(),
            generations: Vec::new(),
            vacant: Vec::new(),
        }
    }

    /// Stores what `make` returns for the index and generation it will have.
    pub fn insert_with(&mut self, make: impl FnOnce(u32, u32) -> T) -> (u32, u32) {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.generations.push(0);
            (self.generations.len() - 1) as u32
        });
        let generation = self.generations[index as usize];
        self.cells.insert(index, make(index, generation));
        (index, generation)
    }

    /// Takes the value out; the generation of its index moves on.
    pub fn remove(&mut self, index: u32, generation: u32) -> Option<T> {
        if self.generations.get(index as usize) != Some(&generation) {
            return None;
        }
        let value = self.cells.remove(index)?;
        self.generations[index as usize] = generation.wrapping_add(1);
        self.vacant.push(index);
        Some(value)
    }

    /// The value, unless the generation is of an earlier one.
    pub fn get(&self, index: u32, generation: u32) -> Option<&T> {
        (self.generations.get(index as usize) == Some(&generation))
            .then(|| self.cells.get(index))?
    }

    /// The value to change, unless the generation is of an earlier one.
    pub fn get_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        (self.generations.get(index as usize) == Some(&generation))
            .then(|| self.cells.get_mut(index))?
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The first value at `index` or after it, with index and generation. Looks at every index between.
    pub fn next_from(&self, index: u32) -> Option<(u32, u32, &T)> {
        (index..self.generations.len() as u32).find_map(|index| {
            let value = self.cells.get(index)?;
            Some((index, self.generations[index as usize], value))
        })
    }

    /// All values with index and generation.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, &T)> {
        self.cells
            .iter()
            .map(|(index, value)| (index, self.generations[index as usize], value))
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_generation_misses() {
        let mut slab = Slab::new();
        let (index, old) = slab.insert_with(|_, _| 'a');
        assert_eq!(slab.remove(index, old), Some('a'));
        let (again, new) = slab.insert_with(|_, _| 'b');
        assert_eq!((again, slab.get(index, old)), (index, None));
        assert_eq!(slab.get(index, new), Some(&'b'));
        assert_eq!(
            slab.remove(index, old),
            None,
            "the old owner cannot remove the new value"
        );
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn pages_iterate_in_order_and_count() {
        let mut map = PagedMap::new();
        for index in [700, 3, 255, 256] {
            map.insert(index, index);
        }
        assert_eq!(
            map.iter().map(|(i, v)| (i, *v)).collect::<Vec<_>>(),
            [(3, 3), (255, 255), (256, 256), (700, 700)]
        );
        assert_eq!(
            (map.remove(255), map.remove(255), map.len()),
            (Some(255), None, 3)
        );
    }
}
