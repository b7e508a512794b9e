use super::*;
use proptest::prelude::*;

/// RFC 7677, section 3.
const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const CHALLENGE: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
/// What PostgreSQL makes of the password "pencil" with that salt.
const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

fn keys() -> Keys {
    let exchange = Exchange::new(FIRST, CHALLENGE, LAST).unwrap();
    exchange.keys(&Verifier::parse(VERIFIER).unwrap()).unwrap()
}

#[test]
fn the_known_exchange_gives_the_keys() {
    let keys = keys();
    assert_eq!(
        Hash::hash(&keys.client),
        Verifier::parse(VERIFIER).unwrap().stored
    );
    let auth = format!(
        "{},{CHALLENGE},{}",
        &FIRST[3..],
        LAST.rsplit_once(",p=").unwrap().0
    );
    let server = base64(&HMAC::mac(&auth, keys.server));
    assert_eq!(server, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn another_verifier_gives_nothing() {
    let exchange = Exchange::new(FIRST, CHALLENGE, LAST).unwrap();
    let mut other = Verifier::parse(VERIFIER).unwrap();
    other.stored[0] ^= 1;
    assert!(exchange.keys(&other).is_none());
    let other = Exchange::new(FIRST, &CHALLENGE.replace("4096", "4097"), LAST).unwrap();
    assert!(other.keys(&Verifier::parse(VERIFIER).unwrap()).is_none());
}

/// What a client says of channel binding is in its last message, and so under its proof.
#[test]
fn the_flag_for_channel_binding_does_not_matter_and_its_use_is_refused() {
    let known = keys();
    let nonce = CHALLENGE.split(',').next().unwrap();
    for (header, said) in [
        ("n,,", "biws"),
        ("y,,", "eSws"),
        ("n,a=app,", "bixhPWFwcCw="),
    ] {
        let (bare, last) = (&FIRST[3..], format!("c={said},{nonce}"));
        let auth = format!("{bare},{CHALLENGE},{last}");
        let signature = HMAC::mac(&auth, Hash::hash(&known.client));
        let proof: Key = std::array::from_fn(|i| known.client[i] ^ signature[i]);
        let last = format!("{last},p={}", base64(&proof));
        let first = format!("{header}{bare}");
        let exchange = Exchange::new(&first, CHALLENGE, &last).unwrap();
        assert!(exchange.keys(&Verifier::parse(VERIFIER).unwrap()) == Some(keys()));
    }
    for header in ["p=tls-server-end-point,,", "p,,", ",,", ""] {
        let first = format!("{header}{}", &FIRST[3..]);
        assert!(Exchange::new(&first, CHALLENGE, LAST).is_none(), "{header}");
    }
}

#[test]
fn verifiers_of_other_methods_are_none() {
    for text in [
        "",
        "md5c5e8ae7ab2dd5eb3b8ef1d9e6ba4e1a5",
        "SCRAM-SHA-1$4096:a$b:c",
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$short:short",
        &VERIFIER[..VERIFIER.len() - 4],
        &format!("{VERIFIER}$"),
    ] {
        assert!(Verifier::parse(text).is_none(), "{text:?}");
    }
}

#[test]
fn a_login_by_keys_is_one_with_the_password() {
    use crate::pg::scram::{ServerLogin, Verifier as ServerVerifier};
    let server = ServerVerifier::new("secret");
    // A login with the password, as the relay sees it.
    let mut client = crate::pg::scram::ClientLogin::new("secret");
    let first = client.first();
    let (login, challenge) = ServerLogin::challenge(&server, &first).unwrap();
    let last = client.prove(&challenge).unwrap();
    login.finish(&last).unwrap();
    let exchange = Exchange::new(&first, &challenge, &last).unwrap();
    let verifier = Verifier::parse(&server.to_string()).unwrap();
    let keys = exchange.keys(&verifier).unwrap();

    let mut again = ByKeys::new(keys.clone(), &[7; 18]);
    let (login, challenge) = ServerLogin::challenge(&server, &again.first()).unwrap();
    let last = login.finish(&again.prove(&challenge).unwrap()).unwrap();
    assert!(again.verify(&last));
    assert!(!again.verify(""));
    assert!(again.into_keys() == keys);

    // The same password, set again, has another salt.
    let changed = ServerVerifier::new("secret");
    let mut void = ByKeys::new(keys, &[7; 18]);
    let (login, challenge) = ServerLogin::challenge(&changed, &void.first()).unwrap();
    assert!(login.finish(&void.prove(&challenge).unwrap()).is_none());
}

#[test]
fn challenges_that_are_not_the_answer_are_not_proven() {
    let mine = base64(&[7; 18]);
    for challenge in [
        String::new(),
        "r=".into(),
        format!("r={mine},s=AAAA,i=1"),
        "r=stranger,s=AAAA,i=1".into(),
        format!("m=ext,r={mine}x,s=AAAA,i=1"),
    ] {
        let mut login = ByKeys::new(keys(), &[7; 18]);
        assert!(login.prove(&challenge).is_none(), "{challenge:?}");
        assert!(!login.verify("v="), "nothing is verified before");
    }
}

proptest! {
    #[test]
    fn no_text_upsets_the_parsers(a in ".{0,80}", b in ".{0,80}", c in ".{0,80}") {
        let _ = Verifier::parse(&a);
        let _ = Exchange::new(&a, &b, &c);
        let mut login = ByKeys::new(keys(), &[7; 18]);
        let _ = login.prove(&a);
        let _ = login.verify(&b);
    }
}
