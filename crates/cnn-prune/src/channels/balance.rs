//! Grouped convolutions must lose as many channels in each of their groups: which channels can go together so that they do.

use cnn_core::layers::Conv2d;
use cnn_core::{ChannelClass, Graph};
use std::collections::{BTreeMap, BTreeSet};

/// For some classes of channels the group of a convolution that each is in.
type Partition = BTreeMap<usize, usize>;

/// Sets of classes, by position, that can be removed each by itself. A class that no grouped convolution makes or reads is alone.
///
/// Where one partition into groups has to stay even, a set takes a class of every group. Where there are two, as before and behind a
/// channel shuffle, the classes are the edges of a regular bipartite graph between the groups of both, and the sets are perfect
/// matchings, into which such a graph falls (König 1916). For anything beyond that, channels of the same place in their groups go
/// together, whatever that ties.
pub(super) fn balanced(graph: &Graph, classes: &[ChannelClass]) -> Vec<Vec<usize>> {
    let partitions = partitions(graph, classes);
    let mut component = Sets::new(classes.len());
    for partition in &partitions {
        let mut members = partition.keys();
        if let Some(&first) = members.next() {
            members.for_each(|&class| component.join(first, class));
        }
    }
    let mut of: BTreeMap<usize, (Vec<usize>, BTreeSet<Partition>)> = BTreeMap::new();
    for class in 0..classes.len() {
        of.entry(component.find(class)).or_default().0.push(class);
    }
    for partition in partitions {
        if let Some(&first) = partition.keys().next() {
            of.entry(component.find(first)).or_default().1.insert(canonical(partition));
        }
    }
    let sets = |(members, partitions): (Vec<usize>, BTreeSet<Partition>)| -> Vec<Vec<usize>> {
        let partitions: Vec<Partition> = partitions.into_iter().collect();
        let whole = |p: &Partition| p.len() == members.len();
        match &partitions[..] {
            [] => members.into_iter().map(|class| vec![class]).collect(),
            [one] if whole(one) => by_place(&members, &partitions),
            [a, b] if whole(a) && whole(b) => {
                matchings(&members, a, b).unwrap_or_else(|| by_place(&members, &partitions))
            }
            _ => by_place(&members, &partitions),
        }
    };
    of.into_values().flat_map(sets).collect()
}

/// The groups of all grouped convolutions, for what they make and for what they read.
fn partitions(graph: &Graph, classes: &[ChannelClass]) -> Vec<Partition> {
    let mut class_of: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (i, class) in classes.iter().enumerate() {
        class.members.iter().for_each(|&member| _ = class_of.insert(member, i));
    }
    let mut found = Vec::new();
    for (at, node) in graph.nodes().iter().enumerate() {
        let Some(conv) = node.layer().downcast_ref::<Conv2d>() else { continue };
        let groups = conv.options.groups;
        if groups == 1 || conv.is_depthwise() {
            continue;
        }
        for (node, channels) in [(at, conv.filters()), (node.inputs[0], conv.channels_in())] {
            let size = channels / groups;
            found.push((0..channels).map(|c| (class_of[&(node, c)], c / size)).collect());
        }
    }
    found
}

/// The same partition with its groups named by their order.
fn canonical(partition: Partition) -> Partition {
    let mut names: BTreeMap<usize, usize> = BTreeMap::new();
    let name = |(class, group): (usize, usize)| {
        let next = names.len();
        (class, *names.entry(group).or_insert(next))
    };
    partition.into_iter().map(name).collect()
}

/// Classes of the same place in their groups, joined over all partitions.
fn by_place(members: &[usize], partitions: &[Partition]) -> Vec<Vec<usize>> {
    let position: BTreeMap<usize, usize> = members.iter().enumerate().map(|(i, &class)| (class, i)).collect();
    let mut sets = Sets::new(members.len());
    for partition in partitions {
        let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
        let mut first: BTreeMap<usize, usize> = BTreeMap::new();
        for (class, group) in partition {
            let place = seen.entry(*group).or_default();
            let leader = *first.entry(*place).or_insert(*class);
            sets.join(position[&leader], position[class]);
            *place += 1;
        }
    }
    let mut found: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, &class) in members.iter().enumerate() {
        found.entry(sets.find(i)).or_default().push(class);
    }
    found.into_values().collect()
}

/// Perfect matchings between the groups of two partitions; `None` if these are not as many, or of several sizes.
fn matchings(members: &[usize], a: &Partition, b: &Partition) -> Option<Vec<Vec<usize>>> {
    let groups = 1 + a.values().max()?;
    let mut cells = vec![vec![Vec::new(); groups]; groups];
    for class in members.iter().rev() {
        cells[a[class]].get_mut(b[class])?.push(*class);
    }
    let degree = members.len() / groups;
    let mut found = Vec::new();
    for _ in 0..degree {
        // for each group of b the group of a that it goes with
        let mut matched = vec![None; groups];
        for from in 0..groups {
            if !augment(&cells, from, &mut vec![false; groups], &mut matched) {
                return None;
            }
        }
        let pairs = matched.iter().enumerate().filter_map(|(to, from)| Some(((*from)?, to)));
        found.push(pairs.filter_map(|(from, to): (usize, usize)| cells[from][to].pop()).collect());
    }
    Some(found)
}

/// An augmenting path from a group of `a`.
fn augment(cells: &[Vec<Vec<usize>>], from: usize, seen: &mut [bool], matched: &mut [Option<usize>]) -> bool {
    for to in 0..matched.len() {
        if cells[from][to].is_empty() || std::mem::replace(&mut seen[to], true) {
            continue;
        }
        if matched[to].is_none_or(|other| augment(cells, other, seen, matched)) {
            matched[to] = Some(from);
            return true;
        }
    }
    false
}

/// Disjoint sets.
struct Sets(Vec<usize>);

impl Sets {
    fn new(count: usize) -> Sets {
        Sets((0..count).collect())
    }

    fn find(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_between_two_grouped_convolutions() {
        // 12 channels in 3 groups, before and behind a shuffle of 3 groups: 4 is not divisible by 3
        let a: Partition = (0..12).map(|c| (c, c / 4)).collect();
        let b: Partition = (0..12).map(|c| (c, (c % 4 * 3 + c / 4) / 4)).collect();
        let members: Vec<usize> = (0..12).collect();
        let found = matchings(&members, &a, &b).unwrap();
        assert_eq!(found.len(), 4);
        for set in &found {
            for partition in [&a, &b] {
                let groups: BTreeSet<usize> = set.iter().map(|c| partition[c]).collect();
                assert_eq!(groups.len(), 3, "{set:?}");
            }
        }
        let mut all: Vec<usize> = found.concat();
        all.sort_unstable();
        assert_eq!(all, members);
        // joined by place everything would hang together
        assert!(by_place(&members, &[a, b]).len() < 4);
    }
}
