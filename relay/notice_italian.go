package relay

import (
	"fmt"
	"strconv"
)

type italian struct{}

func (italian) language() string          { return "it" }
func (italian) workspace() string         { return "Workspace" }
func (italian) endpoint() string          { return "Endpoint" }
func (italian) time() string              { return "Ora" }
func (italian) failures() string          { return "Errori" }
func (italian) eventType() string         { return "Tipo di evento" }
func (italian) event() string             { return "Evento" }
func (italian) result() string            { return "Esito" }
func (italian) reason() string            { return "Motivo" }
func (italian) events() string            { return "Eventi" }
func (italian) others() string            { return "altri" }
func (italian) outOf(n, quota int) string { return fmt.Sprintf("%d (limite %d)", n, quota) }

func (italian) minutes(n int) string {
	if n == 1 {
		return "1 minuto"
	}
	return strconv.Itoa(n) + " minuti"
}

func (italian) footer(workspace string) string {
	return "Ricevi questa e-mail perché il tuo indirizzo è tra quelli di notifica del workspace " + workspace + "."
}

func (italian) warningSubject(l letter) string {
	return fmt.Sprintf("Errori dei webhook al %d%% del limite (%d su %d)", l.Percent, l.Count, l.Quota)
}

func (italian) warningHeading(percent int) string {
	return fmt.Sprintf("Gli errori dei webhook hanno raggiunto il %d%% del limite", percent)
}

func (italian) warningIntro(l letter, span string) []string {
	whose := "Il limite è comune a tutti i webhook del workspace."
	if l.PerEndpoint {
		whose = "Il limite vale solo per questo webhook."
	}
	return []string{
		fmt.Sprintf("In %s ci sono stati %d tentativi falliti. Il primo errore oltre i %d disattiva il webhook che lo causa. %s", span, l.Count, l.Quota, whose),
		"Controlla che il webhook qui sotto risponda subito a ogni evento con uno stato di successo e svolga il proprio lavoro dopo aver risposto.",
	}
}

func (italian) lastFailing() string { return "Ultimo a fallire" }

func (italian) disabledSubject(host string) string { return "Webhook disattivato: " + host }
func (italian) disabledHeading() string            { return "Un webhook è stato disattivato" }

func (italian) disabledIntro(l letter, span string) []string {
	held := "Gli eventi che arrivano nel frattempo vengono conservati e saranno consegnati in ordine dopo la riattivazione."
	if l.Discards {
		held = "Gli eventi che arrivano nel frattempo vengono scartati."
	}
	whose := "per tutti i webhook del workspace"
	if l.PerEndpoint {
		whose = "per questo webhook"
	}
	return []string{
		fmt.Sprintf("In %s ci sono stati %d tentativi falliti; il limite %s è %d. L'ultimo errore, quello di troppo, è del webhook qui sotto: non riceverà altri eventi finché non lo riattivi.", span, l.Count, whose, l.Quota),
		held,
	}
}

func (italian) disabledAt() string       { return "Disattivato" }
func (italian) lastFailures() string     { return "Gli ultimi errori" }
func (italian) enableAgain() string      { return "Come riattivarlo" }
func (italian) enableOnPlatform() string { return "Dalla piattaforma: " + platformPath }
func (italian) enableByAPI() string      { return "Oppure tramite l'API:" }
func (italian) enableByCommand() string  { return "Oppure dalla riga di comando:" }

func (italian) digestSubject(total int) string {
	if total == 1 {
		return "1 evento webhook non consegnato"
	}
	return strconv.Itoa(total) + " eventi webhook non consegnati"
}

func (italian) digestIntro(total int, since string) []string {
	if total == 1 {
		return []string{fmt.Sprintf("Il %s non è stato possibile consegnare un evento, che è stato messo da parte. Resta tra i messaggi non consegnati (dead letters), con il suo contenuto, e può essere inviato di nuovo.", since)}
	}
	return []string{fmt.Sprintf("Dal %s non è stato possibile consegnare %d eventi, che sono stati messi da parte. Restano tra i messaggi non consegnati (dead letters), con il loro contenuto, e possono essere inviati di nuovo.", since, total)}
}

func (italian) dropped() string        { return "Non consegnati" }
func (italian) byEndpoint() string     { return "Per endpoint" }
func (italian) newest() string         { return "I più recenti" }
func (italian) sendAgain() string      { return "Come inviarli di nuovo" }
func (italian) sendAgainByAPI() string { return "Quando le consegne riescono di nuovo, tramite l'API:" }
