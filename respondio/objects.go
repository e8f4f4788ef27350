package respondio

// Contact is whom an event is about. The custom fields of the workspace are in Extra, by their names.
type Contact struct {
	ID          ID       `json:"id"`
	FirstName   string   `json:"firstName"`
	LastName    string   `json:"lastName"`
	Phone       string   `json:"phone"`
	Email       string   `json:"email"`
	Language    string   `json:"language"`
	ProfilePic  string   `json:"profilePic"`
	CountryCode string   `json:"countryCode"`
	Status      string   `json:"status"` // "open" or "closed"
	Tags        []string `json:"tags"`
	// Assignee has an empty ID where the contact is nobody's.
	Assignee  User      `json:"assignee"`
	CreatedAt Timestamp `json:"created_at"`
	Lifecycle string    `json:"lifecycle"`
	Rest
}

// User is somebody who works in the workspace.
type User struct {
	ID        ID     `json:"id"`
	FirstName string `json:"firstName"`
	LastName  string `json:"lastName"`
	Email     string `json:"email"`
	Role      string `json:"role"`
	Rest
}

// ClosedConversation is what conversation.closed says about the conversation.
type ClosedConversation struct {
	Category             string    `json:"category"`
	Summary              string    `json:"summary"`
	OpenedTime           Timestamp `json:"openedTime"`
	OpenedBySource       string    `json:"openedBySource"`
	ClosedTime           Timestamp `json:"closedTime"`
	ClosedBy             User      `json:"closedBy"`
	ClosedBySource       string    `json:"closedBySource"`
	FirstResponseTime    Seconds   `json:"firstResponseTime"`
	ResolutionTime       Seconds   `json:"resolutionTime"`
	IncomingMessageCount int64     `json:"incomingMessageCount"`
	OutgoingMessageCount int64     `json:"outgoingMessageCount"`
	AssigneeTeam         string    `json:"assigneeTeam"`
	LastAssignmentTime   Timestamp `json:"lastAssignmentTime"`
	Rest
}

// OpenedConversation is what conversation.opened says about the conversation.
type OpenedConversation struct {
	Source                        string    `json:"source"`
	OpenedAt                      Timestamp `json:"conversationOpenedAt"`
	FirstIncomingMessage          string    `json:"firstIncomingMessage"`
	FirstIncomingMessageChannelID ID        `json:"firstIncomingMessageChannelId"`
	Rest
}

// Message is a message and where it stands; what it says is its Content.
type Message struct {
	MessageID ID `json:"messageId"`
	// ChannelMessageID is the id that the channel gave it.
	ChannelMessageID ID        `json:"channelMessageId"`
	ContactID        ID        `json:"contactId"`
	ChannelID        ID        `json:"channelId"`
	Traffic          string    `json:"traffic"` // "incoming" or "outgoing"
	Timestamp        Timestamp `json:"timestamp"`
	// Content is nil where the message has none.
	Content Content `json:"message"`
	// ReplyTo is the message that this one answers; its MessageID is empty where it answers none.
	ReplyTo RepliedMessage `json:"replyTo"`
	// Status is what the channel has said about an outgoing message.
	Status []Status `json:"status"`
	Rest
}

// RepliedMessage is a message that another one answers.
type RepliedMessage struct {
	MessageID ID      `json:"messageId"`
	Traffic   string  `json:"traffic"`
	Content   Content `json:"message"`
	Rest
}

// Status is a step of an outgoing message, such as "pending".
type Status struct {
	Value     string    `json:"value"`
	Timestamp Timestamp `json:"timestamp"`
	Rest
}

// Channel is where a message or a call came through.
type Channel struct {
	ID   ID     `json:"id"`
	Name string `json:"name"`
	// Source is the kind of channel, such as "whatsapp_cloud".
	Source string `json:"source"`
	// Meta is what the channel says about the contact: JSON, as a text.
	Meta                    string    `json:"meta"`
	CreatedAt               Timestamp `json:"created_at"`
	LastMessageTime         Timestamp `json:"lastMessageTime"`
	LastIncomingMessageTime Timestamp `json:"lastIncomingMessageTime"`
	Rest
}

// Sender is who or what wrote a message; the ids that do not apply are empty.
type Sender struct {
	// Source is the kind of sender, such as "contact" or "user".
	Source             string `json:"source"`
	UserID             ID     `json:"userId"`
	TeamID             ID     `json:"teamId"`
	WorkflowID         ID     `json:"workflowId"`
	BroadcastHistoryID ID     `json:"broadcastHistoryId"`
	Rest
}

// File is an attachment of a message, an e-mail or a comment.
type File struct {
	// Type is "image", "video", "audio" or "file".
	Type        string `json:"type"`
	URL         string `json:"url"`
	FileName    string `json:"fileName"`
	MimeType    string `json:"mimeType"`
	Ext         string `json:"ext"`
	Size        int64  `json:"size"` // in bytes
	Description string `json:"description"`
	Rest
}

// Call is a call that has ended.
type Call struct {
	ID     ID     `json:"id"`
	Status string `json:"status"` // such as "completed"
	// Channel is the channel's name.
	Channel         string      `json:"channel"`
	Direction       string      `json:"direction"` // "inbound" or "outbound"
	Language        string      `json:"language"`
	StartTime       Timestamp   `json:"start_time"`
	EndTime         Timestamp   `json:"end_time"`
	DurationSeconds Seconds     `json:"durationSeconds"`
	RecordingURL    string      `json:"recordingURL"`
	Transcript      []Utterance `json:"transcript"`
	Summary         CallSummary `json:"callSummary"`
	Rest
}

// Utterance is what one side of a call said, from Start to End after its beginning.
type Utterance struct {
	Speaker string  `json:"speaker"` // "contact" or "agent"
	Start   Seconds `json:"start"`
	End     Seconds `json:"end"`
	Text    string  `json:"text"`
	Rest
}

// CallSummary is what a call was about.
type CallSummary struct {
	Title       string   `json:"title"`
	Summary     []string `json:"summary"`
	ActionItems []string `json:"actionItems"`
	Rest
}
