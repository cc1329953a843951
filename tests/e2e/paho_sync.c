/* paho C's synchronous client, a device: CLIENT PORT CLIENT_ID TOPIC. It reads when it is asked to, and nobody asks here: its last
 * messages are unread when it closes behind DISCONNECT, and the kernel resets the connection. Its will goes to TOPIC/will. */
#include <MQTTClient.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void check(const char *what, int code)
{
    if (code != 0) {
        printf("%s: %d\n", what, code);
        exit(1);
    }
}

static void leave(const char *uri, const char *id, const char *topic)
{
    MQTTClient client;
    MQTTClient_connectOptions options = MQTTClient_connectOptions_initializer;
    MQTTClient_willOptions will = MQTTClient_willOptions_initializer;
    char will_topic[200];
    snprintf(will_topic, sizeof will_topic, "%s/will", topic);
    will.topicName = will_topic;
    will.message = "gone";
    will.qos = 1;
    options.will = &will;
    options.cleansession = 1;
    check("create", MQTTClient_create(&client, uri, id, MQTTCLIENT_PERSISTENCE_NONE, NULL));
    check("connect", MQTTClient_connect(client, &options));
    check("subscribe", MQTTClient_subscribe(client, topic, 0));
    for (int n = 0; n < 20; n++) check("publish", MQTTClient_publish(client, topic, 6, "unread", 0, 0, NULL));
    usleep(300000);
    check("disconnect", MQTTClient_disconnect(client, 0));
    MQTTClient_destroy(&client);
    puts("left");
}

int main(int count, char **arguments)
{
    char uri[100];
    if (count != 4) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(uri, sizeof uri, "tcp://127.0.0.1:%s", arguments[1]);
    leave(uri, arguments[2], arguments[3]);
    return 0;
}
