//! The few kinds of addresses that are followed.

use std::net::IpAddr;

use super::FetchError;

/// An address below which a publisher's files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base(String);

impl Base {
    /// Checks an address that somebody typed.
    pub(super) fn parse(text: &str, allow_http: bool) -> Result<Base, FetchError> {
        check(text, allow_http)?;
        Ok(Base(text.trim_end_matches('/').to_owned()))
    }

    pub(super) fn join(&self, path: &str) -> String {
        format!("{}/{path}", self.0)
    }
}

/// Refuses what is neither `https://HOST[:PORT][/PATH]` nor the same with `http://` on this
/// machine (or anywhere, with `allow_http`), nor a registry's `oci://HOST[:PORT]/PATH`, which is
/// asked by the same rule.
pub(super) fn check(url: &str, allow_http: bool) -> Result<(), FetchError> {
    let shown: String = url.chars().take(200).collect();
    let bad = |reason: &str| FetchError::Url { url: shown.clone(), reason: reason.into() };
    let (rest, secure) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (rest, true),
        (_, Some(rest)) => (rest, false),
        _ => match url.strip_prefix("oci://") {
            Some(rest) => (rest, true),
            None => return Err(bad("an address starts with https:// or oci://")),
        },
    };
    if url.len() > 2048 || !url.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad("an address is at most 2048 plain characters, without spaces"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        // It would show up in messages and logs.
        return Err(bad("names and passwords in an address are not supported"));
    }
    let host = host(authority);
    if host.is_empty() {
        return Err(bad("it names no host"));
    }
    if !secure && !allow_http && !is_loopback(host) {
        return Err(FetchError::PlainHttp { url: shown });
    }
    Ok(())
}

/// The address that a redirect from `url` leads to, if it may be followed: never from HTTPS to
/// HTTP.
pub(super) fn redirect(url: &str, to: &str, allow_http: bool) -> Result<String, FetchError> {
    let origin_end = url.find("://").map_or(0, |i| i + 3);
    let path_at = url[origin_end..].find('/').map_or(url.len(), |i| origin_end + i);
    let target = match (to.contains("://"), to.starts_with("//"), to.starts_with('/')) {
        (true, ..) => to.to_owned(),
        (_, true, _) => format!("{}{to}", &url[..origin_end - 2]),
        (_, _, true) => format!("{}{to}", &url[..path_at]),
        _ => match url.rfind('/').filter(|&i| i >= origin_end) {
            Some(slash) => format!("{}/{to}", &url[..slash]),
            None => format!("{url}/{to}"),
        },
    };
    check(&target, allow_http)?;
    if url.starts_with("https://") && !target.starts_with("https://") {
        return Err(FetchError::PlainHttp { url: target });
    }
    Ok(target)
}

/// True for an address on this machine.
#[cfg(feature = "oci")]
pub(super) fn on_loopback(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    is_loopback(host(rest.split('/').next().unwrap_or_default()))
}

fn host(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_addresses_may_be_used() {
        for url in [
            "https://example.org",
            "https://example.org:8443/a/",
            "http://127.0.0.1:80/x",
            "http://[::1]:8080",
            "http://localhost/",
        ] {
            assert!(check(url, false).is_ok(), "{url}");
        }
        for url in ["http://example.org", "http://127.0.0.1.example.org", "http://10.0.0.1/a"] {
            assert_eq!(check(url, false).unwrap_err().code(), "fetch.plain-http", "{url}");
            assert!(check(url, true).is_ok());
        }
        for url in
            ["", "example.org", "ftp://a", "https://", "https://a b", "https://u:p@h/", "file:///a"]
        {
            assert_eq!(check(url, true).unwrap_err().code(), "fetch.url", "{url}");
        }
        assert_eq!(Base::parse("https://a/b//", false).unwrap().join("c"), "https://a/b/c");
    }

    #[test]
    fn where_redirects_lead() {
        let from = "https://a.org/x/y";
        let to = |to| redirect(from, to, true);
        assert_eq!(to("/z").unwrap(), "https://a.org/z");
        assert_eq!(to("z").unwrap(), "https://a.org/x/z");
        assert_eq!(to("//b.org/z").unwrap(), "https://b.org/z");
        assert_eq!(to("https://b.org/z?s=1").unwrap(), "https://b.org/z?s=1");
        assert_eq!(to("http://b.org/z").unwrap_err().code(), "fetch.plain-http");
        assert_eq!(to("ftp://b.org/z").unwrap_err().code(), "fetch.url");
        assert_eq!(redirect("https://a.org", "z", false).unwrap(), "https://a.org/z");
    }
}
