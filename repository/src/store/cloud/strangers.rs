//! Answers of lists without the names of others that `object_store` makes no path of: one of them, such as `a//b`, and it
//! gives up the whole page. pgproof writes no such name; whoever did must not keep it from its own.

use object_store::path::Path;

/// The elements that name one thing each, and where its name stands in them: of objects and folders, at Google and at Azure.
const ENTRIES: [Entry; 4] = [
    Entry { element: "Contents", name: "Key", is_folder: false },
    Entry { element: "CommonPrefixes", name: "Prefix", is_folder: true },
    Entry { element: "Blob", name: "Name", is_folder: false },
    Entry { element: "BlobPrefix", name: "Name", is_folder: true },
];

struct Entry {
    element: &'static str,
    name: &'static str,
    is_folder: bool,
}

/// Whether this is the query of a list of objects.
pub(super) fn is_list(query: Option<&str>) -> bool {
    let mut pairs = query.unwrap_or_default().split('&');
    pairs.any(|pair| pair == "list-type=2" || pair == "comp=list")
}

/// A page of a list without what is not ours.
pub(super) fn left_out(page: &str) -> String {
    ENTRIES.iter().fold(page.to_owned(), |page, entry| entry.filtered(&page))
}

impl Entry {
    fn filtered(&self, page: &str) -> String {
        let (open, close) = (format!("<{}>", self.element), format!("</{}>", self.element));
        let (mut kept, mut rest) = (String::with_capacity(page.len()), page);
        while let Some((before, from)) = rest.split_once(&open) {
            kept.push_str(before);
            let Some((entry, behind)) = from.split_once(&close) else {
                rest = &rest[before.len()..];
                break;
            };
            if self.is_a_path(entry) {
                kept.extend([&open, entry, &close]);
            } else {
                tracing::warn!(
                    entry = self.told(entry),
                    "skipped what somebody else put below the repository"
                );
            }
            rest = behind;
        }
        kept + rest
    }

    /// A name with attributes holds what XML cannot, and so does none of ours.
    fn told<'a>(&self, entry: &'a str) -> &'a str {
        let named = entry.split_once(&format!("<{}>", self.name));
        named.and_then(|(_, from)| from.split_once(&format!("</{}>", self.name))).map_or("", |(name, _)| name)
    }

    fn is_a_path(&self, entry: &str) -> bool {
        let Ok(name) = quick_xml::escape::unescape(self.told(entry)) else { return false };
        // A path forgets the slash at its end, by which an object would pass for another one.
        !name.is_empty() && (self.is_folder || !name.ends_with('/')) && Path::parse(&*name).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_are_left_out_and_nothing_else() {
        let of = |names: &[&str]| {
            let entry = |name: &&str| format!("<Contents><Key>{name}</Key><Size>1</Size></Contents>");
            let prefixes = "<CommonPrefixes><Prefix>p/app/</Prefix></CommonPrefixes>";
            let entries: String = names.iter().map(entry).collect();
            format!("<ListBucketResult><Name>b</Name>{entries}{prefixes}</ListBucketResult>")
        };
        let foreign =
            of(&["p/a", "p//a", "p/a/", "/p", "p/./a", "p/../a", "p/&#10;a", "p/a&amp;b", "p/a//", ""]);
        // A slash at the start is forgotten, too; such a name is below no prefix.
        assert_eq!(left_out(&foreign), of(&["p/a", "/p", "p/a&amp;b"]));
        let cut = "<ListBucketResult><Contents><Key>p/a";
        assert_eq!(left_out(cut), cut);
    }

    #[test]
    fn azures_names_are_known_too() {
        let ours = "<BlobPrefix><Name>p/app/</Name></BlobPrefix><Blob><Name>p/a</Name><Properties/></Blob>";
        let foreign = "<BlobPrefix><Name>p//</Name></BlobPrefix><Blob><Name>p//a</Name><Properties/></Blob>\
                       <Blob><Name Encoded=\"true\">p%00</Name></Blob>";
        let page =
            |entries: &str| format!("<EnumerationResults><Blobs>{entries}</Blobs></EnumerationResults>");
        assert_eq!(left_out(&page(&format!("{foreign}{ours}"))), page(ours));
    }

    #[test]
    fn lists_are_known_by_their_query() {
        assert!(is_list(Some("list-type=2&prefix=p")) && is_list(Some("restype=container&comp=list")));
        assert!(!is_list(Some("uploads")) && !is_list(Some("comp=blocklist")) && !is_list(None));
    }
}
