//! A snapshot node that decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::format::node::Node;
use mmhfs::format::split::SplitNode;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(node) = Node::decode(bytes) {
        assert_eq!(node.encode(), bytes);
        node.for_each_id(|_| {});
    }
    if let Ok(split) = SplitNode::decode(bytes) {
        assert_eq!(split.encode(), bytes);
        assert!((0..split.parts.len()).all(|idx| split.part_len(idx) > 0));
    }
});
