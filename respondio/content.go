package respondio

import "github.com/go-json-experiment/json/jsontext"

// Content is what a message says: one of the types below, always as a pointer, such as *Text; or
// *UnknownContent for a type that this package does not know.
type Content interface {
	// Head is what all contents have.
	Head() *ContentHead
	isContent()
}

// ContentHead is what all contents have.
type ContentHead struct {
	// Type is the type on the wire, such as "text".
	Type string `json:"type"`
	Rest
}

// Head makes a type that embeds the head a Content.
func (h *ContentHead) Head() *ContentHead { return h }

func (*ContentHead) isContent() {}

// Text is a text message.
type Text struct {
	ContentHead
	Text string `json:"text"`
	// MessageTag is the Messenger tag that it was sent under, such as "POST_PURCHASE_UPDATE".
	MessageTag string `json:"messageTag"`
}

// Attachment is one file or several.
type Attachment struct {
	ContentHead
	Files []File `json:"attachment"`
}

// Location is a place.
type Location struct {
	ContentHead
	Latitude  float64 `json:"latitude"`
	Longitude float64 `json:"longitude"`
	Address   string  `json:"address"`
}

// QuickReply is a question with the answers to choose from.
type QuickReply struct {
	ContentHead
	Title   string   `json:"title"`
	Replies []string `json:"replies"`
}

// Email is an e-mail.
type Email struct {
	ContentHead
	Subject string `json:"subject"`
	// Text or Message is the text of it, which depends on the channel: see Body.
	Text             string   `json:"text"`
	Message          string   `json:"message"`
	CC               []string `json:"cc"`
	BCC              []string `json:"bcc"`
	ReplyToMessageID ID       `json:"replyToMessageId"`
	Attachments      []File   `json:"attachments"`
}

// Body is the text of the e-mail, whichever member it came in.
func (e *Email) Body() string {
	if e.Text != "" {
		return e.Text
	}
	return e.Message
}

// WhatsAppTemplate is a message made from a template.
type WhatsAppTemplate struct {
	ContentHead
	Template Template `json:"template"`
}

// Template is a template of WhatsApp's with what was filled in.
type Template struct {
	ID           ID                  `json:"id"`
	Name         string              `json:"name"`
	LanguageCode string              `json:"languageCode"`
	Components   []TemplateComponent `json:"components"`
	Rest
}

// TemplateComponent is a part of a template.
type TemplateComponent struct {
	// Type is "header", "body", "footer" or "buttons".
	Type   string `json:"type"`
	Format string `json:"format"`
	// Text has the places of the parameters as {{1}}, {{2}}, …
	Text       string              `json:"text"`
	Parameters []TemplateParameter `json:"parameters"`
	Buttons    []TemplateButton    `json:"buttons"`
	Rest
}

// TemplateParameter is what was filled in at one place.
type TemplateParameter struct {
	Type  string        `json:"type"`
	Text  string        `json:"text"`
	Image TemplateMedia `json:"image"`
	Rest
}

// TemplateMedia is where a picture is.
type TemplateMedia struct {
	Link string `json:"link"`
	Rest
}

// TemplateButton is a button below a template.
type TemplateButton struct {
	Type       string              `json:"type"`
	Text       string              `json:"text"`
	URL        string              `json:"url"`
	Parameters []TemplateParameter `json:"parameters"`
	Rest
}

// CustomPayload is what was sent in the channel's own form.
type CustomPayload struct {
	ContentHead
	Payload jsontext.Value `json:"payload"`
}

// The members of these are not documented: they are in Extra.
type (
	// Card is a card.
	Card struct{ ContentHead }
	// FacebookTemplate is a message made from a template of Facebook's.
	FacebookTemplate struct{ ContentHead }
	// Post is a comment below a post, or the post.
	Post struct{ ContentHead }
	// Rating asks for a rating.
	Rating struct{ ContentHead }
	// StoryReply is an answer to a story.
	StoryReply struct{ ContentHead }
	// Unsupported is what the platform could not read.
	Unsupported struct{ ContentHead }
	// WhatsAppInteractive is an interactive message of WhatsApp's.
	WhatsAppInteractive struct{ ContentHead }
	// WhatsAppOrder is an order out of a WhatsApp catalogue.
	WhatsAppOrder struct{ ContentHead }
	// UnknownContent is of a type that this package does not know.
	UnknownContent struct{ ContentHead }
)

// contents are the types of content that the package knows.
var contents = []struct {
	name string
	make func() Content
}{
	{"text", func() Content { return new(Text) }},
	{"attachment", func() Content { return new(Attachment) }},
	{"location", func() Content { return new(Location) }},
	{"quick_reply", func() Content { return new(QuickReply) }},
	{"email", func() Content { return new(Email) }},
	{"whatsapp_template", func() Content { return new(WhatsAppTemplate) }},
	{"custom_payload", func() Content { return new(CustomPayload) }},
	{"card", func() Content { return new(Card) }},
	{"facebook_template", func() Content { return new(FacebookTemplate) }},
	{"post", func() Content { return new(Post) }},
	{"rating", func() Content { return new(Rating) }},
	{"story_reply", func() Content { return new(StoryReply) }},
	{"unsupported", func() Content { return new(Unsupported) }},
	{"whatsapp_interactive", func() Content { return new(WhatsAppInteractive) }},
	{"whatsapp_order", func() Content { return new(WhatsAppOrder) }},
}

// ContentTypes lists the types of content that have a type of their own here, such as "text".
func ContentTypes() []string {
	names := make([]string, len(contents))
	for i, c := range contents {
		names[i] = c.name
	}
	return names
}

func newContent(contentType string) Content {
	for _, c := range contents {
		if c.name == contentType {
			return c.make()
		}
	}
	return new(UnknownContent)
}
