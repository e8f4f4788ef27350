package respondio_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/respondio"
)

// want is a value that was read and the one that the sample has.
type want struct{ got, want any }

func received(p respondio.Payload) *respondio.MessageReceived { return p.(*respondio.MessageReceived) }

func sent(p respondio.Payload) *respondio.MessageSent { return p.(*respondio.MessageSent) }

// content is what the message of p says.
func content[C respondio.Content](p respondio.Payload) C {
	if m, ok := p.(*respondio.MessageReceived); ok {
		return m.Message.Content.(C)
	}
	return sent(p).Message.Content.(C)
}

func TestTheFieldsOfAnEventAreThoseOfItsSample(t *testing.T) {
	check(t, map[string]func(respondio.Payload) []want{
		"conversation.closed": func(p respondio.Payload) []want {
			c := p.(*respondio.ConversationClosed).Conversation
			return []want{
				{c.Category, "Sales"},
				{c.Summary, "Bought 2kg of Kopi Gula Apung"},
				{c.OpenedTime, respondio.Timestamp(1784604785)},
				{c.OpenedBySource, "contact"},
				{c.ClosedTime.Time(), time.Date(2026, 7, 21, 4, 33, 5, 0, time.UTC)},
				{c.ClosedBy.ID, respondio.ID("25262")},
				{c.ClosedBy.Email, "nurul.aziz@kedaikopi.example"},
				{c.ClosedBySource, "user"},
				{c.FirstResponseTime.Duration(), 27 * time.Second},
				{c.ResolutionTime.Duration(), time.Hour},
				{c.IncomingMessageCount, int64(10)},
				{c.OutgoingMessageCount, int64(5)},
				{c.AssigneeTeam, "Sales"},
				{c.LastAssignmentTime, respondio.Timestamp(1784604790)},
			}
		},
		"conversation.opened": func(p respondio.Payload) []want {
			c := p.(*respondio.ConversationOpened).Conversation
			return []want{
				{p.Head().Contact.Assignee.ID, respondio.ID("")},
				{c.Source, "contact"},
				{c.OpenedAt, respondio.Timestamp(1784604785)},
				{c.FirstIncomingMessage, "Hi! Is the “Kopi <Gula & Apung>” still RM12/kg? 😊"},
				{c.FirstIncomingMessageChannelID, respondio.ID("274637")},
			}
		},
		"contact.created": func(p respondio.Payload) []want {
			c := p.(*respondio.ContactCreated).Contact
			return []want{
				{p.Head().Type, "contact.created"},
				{p.Head().ID, "a96bbd0e-7463-4bdc-a49e-24ca9f183bfb"},
				{c.ID, respondio.ID("398350624")},
				{c.FirstName, "Aisyah"},
				{c.LastName, "Rahman"},
				{c.Phone, "+60123345566"},
				{c.Email, "aisyah.r@example.com"},
				{c.Language, "ms"},
				{c.ProfilePic, "https://cdn.chatapi.net/app/contact/avatar/398350624.jpg"},
				{c.CountryCode, "MY"},
				{c.Status, "closed"},
				{c.Tags, []string{}},
				{c.Assignee.ID, respondio.ID("")},
				{c.CreatedAt.Time().Unix(), int64(1784604780)},
				{c.Lifecycle, "New Lead"},
				{c.Extra, map[string]jsontext.Value{
					"company": jsontext.Value(`"Kedai Kopi Sdn Bhd"`), "loyalty_points": jsontext.Value("120"), "wants_callback": jsontext.Value("null"),
				}},
			}
		},
		"contact.updated": func(p respondio.Payload) []want {
			c := p.(*respondio.ContactUpdated).Contact
			return []want{{c.Email, "aisyah.rahman@example.com"}, {c.Tags, []string{"vip", "newsletter"}}}
		},
		"contact.assignee.updated": func(p respondio.Payload) []want {
			a := p.(*respondio.ContactAssigneeUpdated).Contact.Assignee
			return []want{{a.ID, respondio.ID("25262")}, {a.FirstName, "Nurul"}, {a.LastName, "Aziz"}}
		},
		"contact.tag.updated": func(p respondio.Payload) []want {
			u := p.(*respondio.ContactTagUpdated)
			return []want{{u.Tag, "newsletter"}, {u.Action, "add"}}
		},
		"contact.lifecycle.updated": func(p respondio.Payload) []want {
			u := p.(*respondio.ContactLifecycleUpdated)
			return []want{{u.Lifecycle, "Customer"}, {u.OldLifecycle, "Hot Lead"}, {u.Action, "update"}}
		},
		"message.received": func(p respondio.Payload) []want {
			m := received(p)
			return []want{
				{m.Message.MessageID, respondio.ID("1784604785000000")},
				{m.Message.ChannelMessageID, respondio.ID("wamid.HBgLNjAxMjMzNDU1NjYVAgASGBQzQTdGNEU2QzU4RDk4QjI3M0EA")},
				{m.Message.ContactID, m.Contact.ID},
				{m.Message.ChannelID, m.Channel.ID},
				{m.Message.Traffic, "incoming"},
				{m.Message.Timestamp.Time(), time.Unix(1784604785, 0).UTC()},
				{content[*respondio.Text](p).Text, "Hi! Is the “Kopi <Gula & Apung>” still RM12/kg? 😊"},
				{m.Message.ReplyTo.MessageID, respondio.ID("")},
				{m.Channel.ID, respondio.ID("274637")},
				{m.Channel.Name, "WhatsApp Business"},
				{m.Channel.Source, "whatsapp_cloud"},
				{m.Channel.Meta, `{"meta":{"profile":{"name":"Aisyah Rahman"},"wa_id":"60123345566"}}`},
				{m.Channel.CreatedAt, respondio.Timestamp(1701403960)},
				{m.Sender.Source, "contact"},
				{m.Sender.UserID, respondio.ID("")},
			}
		},
		"message.sent": func(p respondio.Payload) []want {
			m := sent(p)
			return []want{
				{content[*respondio.Text](p).Text, "Yes it is — would you like 2kg?"},
				{len(m.Message.Status), 1},
				{m.Message.Status[0].Value, "pending"},
				{m.Message.Status[0].Timestamp.Time(), time.UnixMilli(1784604812345).UTC()},
				{m.Channel.LastMessageTime, respondio.Timestamp(1784604812)},
				{m.Channel.LastIncomingMessageTime, respondio.Timestamp(1784604785)},
				{m.User.ID, respondio.ID("25262")},
				{m.Sender.Source, "user"},
				{m.Sender.UserID, respondio.ID("25262")},
				{m.Sender.TeamID, respondio.ID("3489")},
				{m.Sender.WorkflowID, respondio.ID("")},
				{m.Sender.BroadcastHistoryID, respondio.ID("")},
			}
		},
		"comment.created": func(p respondio.Payload) []want {
			c := p.(*respondio.CommentCreated)
			return []want{
				{c.Text, "Asked for 2kg, please confirm stock {{@user.25262}}"},
				{c.Attachments[0].FileName, "stock.jpg"},
				{c.MentionedUserIDs, []respondio.ID{"25262"}},
				{c.MentionedUserEmails, []string{"nurul.aziz@kedaikopi.example"}},
			}
		},
		"call.ended": func(p respondio.Payload) []want {
			e := p.(*respondio.CallEnded)
			return []want{
				{e.Call.ID, respondio.ID("6a1d0f4e-9f0b-4a57-8d0a-6e1c3a5b7f20")},
				{e.Call.Status, "completed"},
				{e.Call.Channel, "WhatsApp Business - Calls"},
				{e.Call.Direction, "inbound"},
				{e.Call.Language, "eng"},
				{e.Call.EndTime.Time().Sub(e.Call.StartTime.Time()), e.Call.DurationSeconds.Duration()},
				{e.Call.DurationSeconds, respondio.Seconds(120)},
				{e.Call.RecordingURL, "https://s3.amazonaws.com/rec/6a1d0f4e.mp3"},
				{len(e.Call.Transcript), 2},
				{e.Call.Transcript[0].Start.Duration(), 2499 * time.Millisecond},
				{e.Call.Transcript[1].Speaker, "agent"},
				{e.Call.Transcript[1].End, respondio.Seconds(4.5)},
				{e.Call.Transcript[1].Text, "Hi, how can I help?"},
				{e.Call.Summary.Title, "Pricing inquiry"},
				{e.Call.Summary.Summary, []string{"Customer asked about pricing."}},
				{e.Call.Summary.ActionItems, []string{"Send price list."}},
				{e.User.Role, "user"},
				{e.Channel.Source, "whatsapp_cloud"},
			}
		},
	})
}

func TestTheFieldsOfAContentAreThoseOfItsSample(t *testing.T) {
	file := func(kind, name string) func(respondio.Payload) []want {
		return func(p respondio.Payload) []want {
			f := content[*respondio.Attachment](p).Files
			return []want{{len(f), 1}, {f[0].Type, kind}, {f[0].FileName, name}, {f[0].URL, "https://cdn.chatapi.net/message/file/" + name}}
		}
	}
	check(t, map[string]func(respondio.Payload) []want{
		"message.received.attachment.audio": file("audio", "voice.ogg"),
		"message.received.attachment.file":  file("file", "DO-2026-0442.pdf"),
		"message.received.attachment.image": file("image", "receipt.jpg"),
		"message.received.attachment.video": file("video", "clip.mp4"),
		"message.received.attachment.array": func(p respondio.Payload) []want {
			f := content[*respondio.Attachment](p).Files
			return []want{{len(f), 2}, {f[1].FileName, "b.jpg"}, {f[1].MimeType, "image/jpeg"}, {f[1].Ext, "jpg"}, {f[1].Size, int64(200)}}
		},
		"message.received.location": func(p respondio.Payload) []want {
			l := content[*respondio.Location](p)
			return []want{{l.Latitude, 3.139003}, {l.Longitude, 101.686855}, {l.Address, "Kuala Lumpur"}}
		},
		"message.received.text.replyTo": func(p respondio.Payload) []want {
			r := received(p).Message.ReplyTo
			return []want{
				{r.MessageID, respondio.ID("1784604812345000")},
				{r.Traffic, "outgoing"},
				{r.Content.(*respondio.Text).Text, "Yes it is — would you like 2kg?"},
			}
		},
		"message.sent.text.messageTag": func(p respondio.Payload) []want {
			return []want{{content[*respondio.Text](p).MessageTag, "POST_PURCHASE_UPDATE"}}
		},
		"message.sent.quick_reply": func(p respondio.Payload) []want {
			q := content[*respondio.QuickReply](p)
			return []want{{q.Title, "Escalate this?"}, {q.Replies, []string{"Yes escalate", "No"}}}
		},
		"message.sent.email": func(p respondio.Payload) []want {
			e := content[*respondio.Email](p)
			return []want{
				{e.Subject, "Your quote"},
				{e.Body(), "Please find attached"},
				{e.CC, []string{"boss@example.com"}},
				{e.BCC, []string{}},
				{e.ReplyToMessageID, respondio.ID("1784604785000000")},
				{e.Attachments[0].FileName, "quote.pdf"},
			}
		},
		"message.sent.email.messageKey": func(p respondio.Payload) []want {
			e := content[*respondio.Email](p)
			return []want{{e.Text, ""}, {e.Body(), "Please find attached"}, {e.CC, []string(nil)}}
		},
		"message.sent.whatsapp_template": func(p respondio.Payload) []want {
			w := content[*respondio.WhatsAppTemplate](p).Template
			return []want{
				{w.ID, respondio.ID("1142")},
				{w.Name, "order_update"},
				{w.LanguageCode, "en"},
				{w.Components[0].Format, "image"},
				{w.Components[0].Parameters[0].Image.Link, "https://example.com/h.jpg"},
				{w.Components[1].Text, "Hi {{1}}, order {{2}} shipped"},
				{w.Components[1].Parameters[1].Text, "SO-1001"},
				{w.Components[2].Buttons[0].URL, "https://example.com/t/{{1}}"},
				{w.Components[2].Buttons[0].Parameters[0].Type, "text"},
			}
		},
		"message.sent.custom_payload": func(p respondio.Payload) []want {
			const payload = `{"type":"interactive","interactive":{"type":"button","body":{"text":"Pick"}}}`
			return []want{{string(content[*respondio.CustomPayload](p).Payload), payload}}
		},
	})
}

func check(t *testing.T, cases map[string]func(respondio.Payload) []want) {
	t.Helper()
	all := samples()
	for name, values := range cases {
		t.Run(name, func(t *testing.T) {
			for i, v := range values(parse(t, all[name])) {
				if !reflect.DeepEqual(v.got, v.want) {
					t.Errorf("value %d: got %#v, want %#v", i, v.got, v.want)
				}
			}
		})
	}
}

func TestATimestampIsInSecondsOrInMilliseconds(t *testing.T) {
	for _, c := range []struct {
		raw  string
		want time.Time
		odd  bool
	}{
		{"1784604785", time.Unix(1784604785, 0), false},
		{`"1784604785"`, time.Unix(1784604785, 0), false},
		{"1784604785000", time.Unix(1784604785, 0), false},
		{`"1784604785123"`, time.UnixMilli(1784604785123), false},
		{"1.784604785e9", time.Unix(1784604785, 0), false},
		{"1784604785.5", time.UnixMilli(1784604785500), false},
		{"99999999999", time.Unix(99999999999, 0), false},
		{"100000000000", time.UnixMilli(100000000000), false},
		{"-1", time.Unix(-1, 0), false},
		{`"2026-07-21T03:33:05Z"`, time.Unix(1784604785, 0), false},
		{`"2026-07-21T11:33:05.250+08:00"`, time.UnixMilli(1784604785250), false},
		{`"1969-12-31T23:59:59Z"`, time.Unix(-1, 0), false},
		{"null", time.Time{}, false},
		{"0", time.Time{}, false},
		{`""`, time.Time{}, true},
		{`"yesterday"`, time.Time{}, true},
		{"1.5", time.Time{}, true}, // no number means half a second past 1970
		{"1e400", time.Time{}, true},
		{"true", time.Time{}, true},
		{"{}", time.Time{}, true},
	} {
		body := []byte(`{"contact":{"created_at":` + c.raw + `}}`)
		p := parse(t, body)
		contact := p.Head().Contact
		if got := contact.CreatedAt.Time(); !got.Equal(c.want) || (contact.Odd != nil) != c.odd {
			t.Errorf("%s: got %v (odd: %v), want %v (%v)", c.raw, got, contact.Odd != nil, c.want, c.odd)
		}
		if got := marshal(t, p); string(got) != string(body) {
			t.Errorf("%s: written as %s", body, got)
		}
	}
}

func TestALengthOfTimeFitsADuration(t *testing.T) {
	for s, want := range map[respondio.Seconds]time.Duration{
		2.499: 2499 * time.Millisecond, -1: -time.Second, 1e300: 9223372036*time.Second + 854*time.Millisecond, -1e300: -(9223372036*time.Second + 854*time.Millisecond),
	} {
		if got := s.Duration(); got != want {
			t.Errorf("%v: got %v, want %v", s, got, want)
		}
	}
}

func TestAnIDIsTheSameAsANumberAndAsText(t *testing.T) {
	for raw, want := range map[string]respondio.ID{
		"398350624": "398350624", `"398350624"`: "398350624", "-5": "-5", `"007"`: "007", `"a-1"`: "a-1", `""`: "", "null": "",
		"123456789012345678901234567890": "123456789012345678901234567890", "1.5": "1.5", `"1.5"`: "1.5", "9007199254740993": "9007199254740993",
	} {
		body := []byte(`{"contact":{"id":` + raw + `}}`)
		p := parse(t, body)
		if got := p.Head().Contact.ID; got != want || p.Head().Contact.Odd != nil {
			t.Errorf("%s: got %q, want %q", raw, got, want)
		}
		if got := marshal(t, p); string(got) != string(body) {
			t.Errorf("%s: written as %s", body, got)
		}
	}
	if n, ok := respondio.ID("12").Int64(); n != 12 || !ok {
		t.Errorf("got %d, %v", n, ok)
	}
	if _, ok := respondio.ID("a").Int64(); ok {
		t.Error("a is a number")
	}
}

func TestTheWildIsRead(t *testing.T) {
	body := []byte(`{"event_id":17,"event_type":"message.received",` +
		`"contact":{"id":"398350624","firstName":12,"lastName":null,"email":{"x":1},"tags":null,"assignee":null,"created_at":"1768900281000"},` +
		`"message":{"channelMessageId":55,"timestamp":1784604785,"message":{"type":"attachment","attachment":{"type":"image","size":"100","url":"u"}},"replyTo":"none","status":{"value":"read"}},` +
		`"channel":"WhatsApp","sender":[]}`)
	m := parseAs[*respondio.MessageReceived](t, body)
	for i, v := range []want{
		{m.ID, "17"},
		{m.Contact.ID, respondio.ID("398350624")},
		{m.Contact.FirstName, "12"},
		{m.Contact.LastName, ""},
		{m.Contact.Email, ""},
		{m.Contact.Odd, map[string]jsontext.Value{"email": jsontext.Value(`{"x":1}`)}},
		{m.Contact.Tags, []string(nil)},
		{m.Contact.Assignee.ID, respondio.ID("")},
		{m.Contact.CreatedAt.Time().Unix(), int64(1768900281)},
		{m.Message.ChannelMessageID, respondio.ID("55")},
		{m.Message.Timestamp.Time().Unix(), int64(1784604785)},
		{content[*respondio.Attachment](m).Files[0].Size, int64(100)},
		{string(m.Message.Odd["replyTo"]), `"none"`},
		{m.Message.Status[0].Value, "read"},
		{m.Channel.Name, ""},
		{m.Odd, map[string]jsontext.Value{"channel": jsontext.Value(`"WhatsApp"`), "sender": jsontext.Value(`[]`)}},
	} {
		if !reflect.DeepEqual(v.got, v.want) {
			t.Errorf("value %d: got %#v, want %#v", i, v.got, v.want)
		}
	}
	if got := marshal(t, m); string(got) != string(body) {
		t.Errorf("got\n%s\nwant\n%s", got, body)
	}
}

func TestNullAndMissingComeBackAsTheyCame(t *testing.T) {
	for _, body := range []string{
		`{"contact":{}}`, `{"contact":null}`, `{"contact":{"assignee":{}}}`, `{"contact":{"assignee":null}}`, `{"contact":{"assignee":{"id":null}}}`,
		`{"contact":{"tags":null}}`, `{"contact":{"tags":[]}}`, `{"contact":{"tags":[null]}}`, `{"contact":{"phone":""}}`, `{"contact":{"phone":null}}`,
		`{"message":{"message":{}}}`, `{"message":{"message":null}}`, `{"message":{}}`,
	} {
		p, err := respondio.Parse(staffetta.Event{Type: "message.sent", Payload: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		if got := marshal(t, p); string(got) != body {
			t.Errorf("got %s, want %s", got, body)
		}
	}
}
