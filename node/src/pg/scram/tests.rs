use super::*;

/// The example of RFC 7677, section 3.
#[test]
fn rfc_7677_example() {
    let salt = unbase64("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let verifier = Verifier::with_salt("pencil", salt.try_into().unwrap(), 4096);
    let mut client = ClientLogin::with_nonce("pencil", "user", "rOprNGfwEbeRWgbNEkqO");
    assert_eq!(client.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let (server, challenge) =
        ServerLogin::challenge_with(&verifier, &client.first(), "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
            .unwrap();
    assert_eq!(
        challenge,
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let proof = client.prove(&challenge).unwrap();
    assert_eq!(
        proof,
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    );
    let last = server.finish(&proof).unwrap();
    assert_eq!(last, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    assert!(client.verify(&last));
    assert!(!client.verify("v=AAAA"));
}

#[test]
fn wrong_password_and_tampering_are_refused() {
    let verifier = Verifier::new("app");
    let login = |password: &str, tamper: fn(String) -> String| {
        let mut client = ClientLogin::new(password);
        let (server, challenge) = ServerLogin::challenge(&verifier, &client.first()).unwrap();
        server.finish(&tamper(client.prove(&challenge).unwrap()))
    };
    assert!(login("app", |proof| proof).is_some());
    assert!(login("wrong", |proof| proof).is_none());
    assert!(login("app", |proof| proof.replacen("c=biws", "c=eSws", 1)).is_none());
    assert!(login("app", |proof| proof.replacen("r=", "r=x", 1)).is_none());
    assert!(login("app", |_| "nonsense".into()).is_none());
    for malformed in ["", "n", "n,,", "n,,n=,r=", "p=tls-unique,,n=,r=abc"] {
        assert!(
            ServerLogin::challenge(&verifier, malformed).is_none(),
            "{malformed}"
        );
    }
    let mut client = ClientLogin::new("app");
    for malformed in ["", "r=x,s=AAAA,i=1", "r=,s=,i=0"] {
        assert!(client.prove(malformed).is_none(), "{malformed}");
    }
}

#[test]
fn base64_round_trip_and_rejects() {
    for n in 0..40u8 {
        let bytes: Vec<u8> = (0..n).map(|i| i.wrapping_mul(37)).collect();
        assert_eq!(unbase64(&base64(&bytes)).unwrap(), bytes);
    }
    for bad in ["A", "AAA", "A===", "AA==AAAA", "A*==", "===="] {
        assert!(unbase64(bad).is_none(), "{bad}");
    }
}
