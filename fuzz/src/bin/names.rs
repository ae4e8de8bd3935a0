//! Whatever functions, types and files are called: names are taken apart and shortened, in bounded time.
#![no_main]

use holdup::classify::Rules;
use holdup::report::label;
use holdup::symbolize::Frame;
use holdup::target::{elf, names};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static RULES: Rules = Rules::embedded();
}

fuzz_target!(|name: &str| {
    let demangled = elf::demangle(name);
    for name in [name, &demangled] {
        let (path, arguments) = names::split_arguments(name);
        assert!(path.len() <= name.len());
        for argument in names::arguments(arguments.unwrap_or(name)) {
            let _ = names::split_arguments(argument);
        }
        let _ = names::plain_path(name);
        let _ = names::PollArguments::parse(name);
        let _ = names::class_of_caller(name);
        let _ = (
            label::function(name),
            label::future(name),
            label::place(name, Some(1)),
        );
        let frame = Frame {
            function: name.to_owned(),
            file: Some(name.to_owned()),
            line: Some(1),
            generics: Some(name.to_owned()),
            module: "app".to_owned(),
            inlined: false,
            unresolved: None,
        };
        let _ = RULES.with(|rules| rules.classify(&frame));
    }
});
