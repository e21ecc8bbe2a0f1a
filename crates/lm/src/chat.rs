//! A conversation as the tokens that a model was trained on.

use crate::error::LmError;
use crate::model::LanguageModel;
use crate::template::{ChatTemplate, Conversation};
use crate::tokenizer::EncodeOptions;

impl LanguageModel {
    /// The model's chat template; [`CHATML`](crate::template::CHATML) where its file has none.
    ///
    /// # Errors
    /// If the template is no Jinja, or the model has no tokeniser.
    pub fn chat_template(&self) -> Result<ChatTemplate, LmError> {
        ChatTemplate::of(self.tokenizer()?, self.template())
            .map_err(|error| LmError::Template(error.to_string()))
    }

    /// The token that the model's tokeniser starts every text with, if it does.
    ///
    /// # Errors
    /// If the model has no tokeniser.
    pub fn start_token(&self) -> Result<Option<u32>, LmError> {
        self.tokenizer()?.start().map_err(|error| LmError::Tokenizer(error.to_string()))
    }

    /// The tokens of `conversation` as `template` writes it, after the token that starts every text of
    /// this model, if there is one.
    ///
    /// # Errors
    /// With the template's own words if it refuses the conversation, and if it fails.
    pub fn encode_conversation(
        &self,
        template: &ChatTemplate,
        conversation: &Conversation,
    ) -> Result<Vec<u32>, LmError> {
        let text =
            template.render(conversation).map_err(|error| LmError::Template(error.to_string()))?;
        let tokenizer = self.tokenizer()?;
        let options = EncodeOptions { add_special: false, parse_special: true };
        let mut tokens = tokenizer
            .encode(&text, options)
            .map_err(|error| LmError::Tokenizer(error.to_string()))?;
        // Most templates write the first token; those that don't leave it to the tokeniser.
        let start = self.start_token()?;
        if tokens.first().copied() != start {
            tokens.splice(0..0, start);
        }
        Ok(tokens)
    }
}
