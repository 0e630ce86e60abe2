#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_fuzz_targets::grpc_replies(data));
