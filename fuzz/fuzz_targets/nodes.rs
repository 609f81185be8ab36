//! A snapshot node that decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::format::node::Node;
use mmhfs::format::split::SplitNode;
use mmhfs_fuzz::decoding;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(node) = decoding(bytes, || Node::decode(bytes)) {
        assert_eq!(node.encode(), bytes);
        node.for_each_id(|_| {});
    }
    if let Ok(split) = decoding(bytes, || SplitNode::decode(bytes)) {
        assert!(SplitNode::is_split(bytes));
        assert_eq!(split.encode(), bytes);
        assert!((0..split.parts.len()).all(|idx| split.part_len(idx) > 0));
        let whole: usize = (0..split.parts.len()).map(|idx| split.part_len(idx)).sum();
        assert_eq!(whole, split.len);
    }
});
