//! Where the repository lies, and how its store is spoken to.

use super::*;

#[test]
fn objects_are_locked_for_a_time_that_the_policy_says() {
    let with = |lines: &str| NIGHTLY.replacen("[repository]\n", &format!("[repository]\n{lines}\n"), 1);
    let lock = "object_lock = { mode = \"compliance\", retain = \"35d\" }\ndelete_versions = true";
    let Location::S3 { object_lock, delete_versions, .. } = parsed(&with(lock)).repository.location else {
        panic!()
    };
    let retain = Retain::For(SignedDuration::from_hours(35 * 24));
    assert_eq!(object_lock.as_deref(), Some(&ObjectLock { mode: LockMode::Compliance, retain }));
    assert!(delete_versions);
    let endless = problems(&with("object_lock = { mode = \"forever\" }"));
    assert!(endless.contains("repository.object_lock.mode: must be \"governance\""), "{endless}");
    assert!(endless.contains("repository.object_lock.retain"), "{endless}");
    let by_class = |further: &str| {
        with(&format!("object_lock = {{ mode = \"governance\", retain = \"by class\"{further} }}"))
    };
    let set = parsed(&by_class(", otherwise = \"35d\", yearly = \"90d\"")).repository.location;
    let Location::S3 { object_lock: Some(set), .. } = set else { panic!() };
    let spans = ClassSpans::default().with(Class::Yearly, Some(SignedDuration::from_hours(90 * 24)));
    assert_eq!(set.retain, Retain::ByClass { otherwise: SignedDuration::from_hours(35 * 24), spans });
    let silent = problems(&by_class(""));
    assert!(silent.contains("object_lock.otherwise: must say how long records are locked"), "{silent}");
    let fixed =
        "object_lock = { mode = \"governance\", retain = \"35d\", daily = \"3d\", otherwise = \"1d\" }";
    let mixed = problems(&with(fixed));
    for key in ["daily", "otherwise"] {
        assert!(mixed.contains(&format!("object_lock.{key}: has a meaning with `retain = ")), "{mixed}");
    }
    let in_directory =
        problems(&DIRECTORY.replacen("[repository]\n", "[repository]\ndelete_versions = true\n", 1));
    assert!(in_directory.contains("for an s3:// location only"), "{in_directory}");
    let share = |percent: &str| {
        problems_with("monthly = 12 }", &format!("monthly = 12, remove_share_max = {percent} }}"))
    };
    assert!(share("0").contains("remove_share_max"), "{}", share("0"));
}

#[test]
fn a_store_is_described_by_its_provider_and_what_is_said_beside() {
    let with = |lines: &str| NIGHTLY.replacen("[repository]\n", &format!("[repository]\n{lines}\n"), 1);
    let policy = parsed(&with(
        "provider = \"garage\"\nconditional_writes = \"ignored\"\nchecksums = \"md5\"\nmax_parts = 1000",
    ));
    let Location::S3 { provider, conditional_writes, checksums, max_parts, .. } = policy.repository.location
    else {
        panic!("not a bucket");
    };
    assert_eq!((provider, max_parts), (Some(Provider::Garage), Some(1_000)));
    assert_eq!((conditional_writes, checksums), (Some(ConditionalWrites::Ignored), Some(Checksums::Md5)));
    for (line, told) in [
        ("provider = \"gcs\"", "repository.provider: must be one of \"aws\", \"minio\""),
        ("conditional_writes = true", "repository.conditional_writes: must be \"honoured\" or \"ignored\""),
        ("checksums = \"sha1\"", "repository.checksums: must be \"crc32c\" or \"md5\""),
    ] {
        let problems = problems(&with(line));
        assert!(problems.contains(told), "{problems}");
    }
}

#[test]
fn plain_http_needs_a_reason_or_this_host() {
    let with = |lines: &str| NIGHTLY.replacen("region =", &format!("{lines}\nregion ="), 1);
    for safe in
        ["https://s3.example.org", "http://127.0.0.1:9000", "http://localhost:9000/", "http://[::1]:9000"]
    {
        parsed(&with(&format!("endpoint = \"{safe}\"")));
    }
    for plain in ["http://s3.example.org", "http://127.0.0.1.example.org", "http://localhost.example.org:80"]
    {
        let text = problems(&with(&format!("endpoint = \"{plain}\"")));
        assert!(text.contains("repository.endpoint: must start with https://"), "{text}");
        let reason = format!("endpoint = \"{plain}\"\nallow_plain_http_reason = \"a wire of our own\"");
        assert!(parsed(&with(&reason)).repository.allow_plain_http_reason.is_some());
    }
    for malformed in ["s3.example.org", "https://", "https://host/path", "ftp://host"] {
        assert!(problems(&with(&format!("endpoint = \"{malformed}\""))).contains("and nothing more"));
    }
}

#[test]
fn locations_are_checked() {
    let at = |location: &str| DIRECTORY.replacen("file:///var/backups/pgproof", location, 1);
    for (location, expected) in [("s3://abc", ""), ("s3://abc/", ""), ("s3://abc/a/b/", "a/b")] {
        let Location::S3 { prefix, .. } = parsed(&at(location)).repository.location else { panic!() };
        assert_eq!(prefix, expected);
    }
    for bad in
        ["s3://", "s3://ab", "s3://A-bucket", "s3://abc/a//b", "s3://abc/../b", "file://host/x", "/var/x"]
    {
        assert!(problems(&at(bad)).contains("repository.location: must be"), "{bad}");
    }
    let region = problems(&at("file:///x\"\nregion = \"eu"));
    assert!(region.contains("repository.region: has a meaning for an s3:// location only"), "{region}");
    for (location, expected) in [
        (
            "gs://my_bucket.example.org/a",
            Location::Google { bucket: "my_bucket.example.org".into(), prefix: "a".into(), endpoint: None },
        ),
        (
            "az://backups\"\naccount = \"house\"\nendpoint = \"https://house.blob.core.chinacloudapi.cn",
            Location::Azure {
                container: "backups".into(),
                prefix: String::new(),
                account: Some("house".into()),
                endpoint: Some("https://house.blob.core.chinacloudapi.cn".into()),
                path_style: false,
            },
        ),
    ] {
        assert_eq!(parsed(&at(location)).repository.location, expected);
    }
    for bad in ["gs://ab", "gs://-abc", "gs://a..b", "az://a--b", "az://A-container", "az://under_score"] {
        assert!(problems(&at(bad)).contains("repository.location: must be"), "{bad}");
    }
    for (location, said) in [
        ("gs://abc\"\nregion = \"eu", "repository.region: has a meaning for an s3:// location only"),
        ("gs://abc\"\naccount = \"abc", "repository.account: has a meaning for an az:// location only"),
        ("az://abc\"\naccount = \"A", "repository.account: must be the name of a storage account"),
        (
            "file:///x\"\npath_style = true # \"",
            "path_style: has a meaning for an s3:// or az:// location only",
        ),
        ("gs://abc\"\ndelete_versions = true # \"", "give the bucket object versioning"),
    ] {
        let text = problems(&at(location));
        assert!(text.contains(said), "{text}");
    }
    assert!(problems_with("STANDARD_IA", "DEEP_ARCHIVE").contains("repository.storage_class"));
    assert!(problems_with("\"aws:kms\"", "\"AES256\"").contains("repository.sse_kms_key: has a meaning"));
}
