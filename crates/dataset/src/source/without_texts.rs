use crate::captions::Captions;
use crate::error::Reason;
use crate::findings::{Choice, LeftOut};
use crate::source::{Canvas, Source};

/// A source whose texts are of no use: none is read.
pub(crate) struct WithoutTexts(pub(crate) Box<dyn Source>);

impl Source for WithoutTexts {
    fn count(&self) -> u64 {
        self.0.count()
    }

    fn id(&self, number: u64) -> String {
        self.0.id(number)
    }

    fn picture_name(&self, number: u64) -> Option<String> {
        self.0.picture_name(number)
    }

    fn picture(&self, number: u64) -> Result<Vec<u8>, Reason> {
        self.0.picture(number)
    }

    fn picture_start(&self, number: u64, bytes: u64) -> Result<Vec<u8>, Reason> {
        self.0.picture_start(number, bytes)
    }

    fn captions(&self, _number: u64) -> Result<Captions, Reason> {
        Ok(Captions::default())
    }

    fn choice(&self, number: u64) -> Option<Choice> {
        self.0.choice(number)
    }

    fn left_out(&self) -> &[LeftOut] {
        self.0.left_out()
    }

    fn canvas(&self) -> Option<&dyn Canvas> {
        self.0.canvas()
    }
}
