use super::*;

#[test]
fn a_library_that_is_not_there_is_named() {
    let none = open(
        c"libvianet-none.so.1",
        c"librdmacm.so.1",
        Owner::this().unwrap(),
    )
    .err();
    assert!(
        none.as_ref()
            .is_some_and(|t| t.contains("libvianet-none.so.1")),
        "{none:?}"
    );
}

#[test]
fn a_wrong_library_is_told_by_the_symbol_it_lacks() {
    let wrong = open(c"libc.so.6", c"libc.so.6", Owner::this().unwrap()).err();
    assert!(
        wrong
            .as_ref()
            .is_some_and(|t| t.contains("libc.so.6") && t.contains("ibv_")),
        "{wrong:?}"
    );
}

#[test]
fn what_is_missing_here_is_named() {
    if let Err(why) = library() {
        assert!(why.contains(".so.1"), "{why}");
    }
}
