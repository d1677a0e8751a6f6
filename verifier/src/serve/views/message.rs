//! Why there is no page.

use askama::Template;

use super::Frame;
use crate::report::parts::written;

#[derive(Debug, Template)]
#[template(path = "serve/message.html")]
struct Page<'a> {
    frame: Frame,
    heading: &'a str,
    text: &'a str,
}

pub(in crate::serve) fn html(heading: &str, text: &str) -> String {
    let page = Page { frame: Frame::plain(heading), heading, text };
    written(&page)
}
