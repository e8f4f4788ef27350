package respondio

// Every type here reads and writes itself, so that encoding/json and its successors treat a part,
// such as a contact that a program stores, the way Parse and Marshal treat the whole.

func (p ConversationClosed) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *ConversationClosed) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p ConversationOpened) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *ConversationOpened) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p ContactCreated) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *ContactCreated) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p ContactUpdated) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *ContactUpdated) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p ContactAssigneeUpdated) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *ContactAssigneeUpdated) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p ContactTagUpdated) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *ContactTagUpdated) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p ContactLifecycleUpdated) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *ContactLifecycleUpdated) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p MessageReceived) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *MessageReceived) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p MessageSent) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *MessageSent) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p CommentCreated) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *CommentCreated) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p CallEnded) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *CallEnded) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Unknown) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Unknown) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Contact) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Contact) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p User) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *User) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p ClosedConversation) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *ClosedConversation) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p OpenedConversation) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *OpenedConversation) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Message) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Message) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p RepliedMessage) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *RepliedMessage) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Status) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Status) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Channel) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Channel) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Sender) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Sender) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p File) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *File) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Call) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Call) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Utterance) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Utterance) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p CallSummary) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *CallSummary) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Text) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Text) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Attachment) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Attachment) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Location) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Location) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p QuickReply) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *QuickReply) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Email) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Email) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p WhatsAppTemplate) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *WhatsAppTemplate) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Template) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Template) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p TemplateComponent) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *TemplateComponent) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p TemplateParameter) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *TemplateParameter) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p TemplateMedia) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *TemplateMedia) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p TemplateButton) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *TemplateButton) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p CustomPayload) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *CustomPayload) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Card) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Card) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p FacebookTemplate) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *FacebookTemplate) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Post) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Post) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Rating) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Rating) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p StoryReply) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *StoryReply) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p Unsupported) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *Unsupported) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p WhatsAppInteractive) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *WhatsAppInteractive) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p WhatsAppOrder) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *WhatsAppOrder) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }

func (p UnknownContent) MarshalJSON() ([]byte, error)    { return marshal(&p) }
func (p *UnknownContent) UnmarshalJSON(src []byte) error { return unmarshal(src, p) }
