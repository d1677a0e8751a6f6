//! The form for the token.

use askama::Template;

use super::Frame;
use crate::report::parts::written;

#[derive(Debug, Template)]
#[template(path = "serve/login.html")]
struct Page<'a> {
    frame: Frame,
    /// The page that was asked for.
    to: &'a str,
    wrong: bool,
}

pub(in crate::serve) fn html(to: &str, wrong: bool) -> String {
    let page = Page { frame: Frame::plain("Sign in"), to, wrong };
    written(&page)
}
